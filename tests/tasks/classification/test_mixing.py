"""Mixup and CutMix against their definitions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from internimage.tasks.classification.mixing import mix, mixed_cross_entropy

IMAGES = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 20, 30)  # image i is i everywhere


def draws(count, **alphas):
    return [mix(IMAGES, np.random.default_rng(seed), **alphas) for seed in range(count)]


def test_mixup_blends_each_image_with_its_mirror_in_the_batch_by_a_beta_share():
    mixed = draws(400, mixup=0.8, cutmix=0.0)
    for one in mixed[:20]:
        expected = one.share * IMAGES + (1 - one.share) * IMAGES.flip(0)
        torch.testing.assert_close(one.images, expected)
    assert stats.kstest([one.share for one in mixed], stats.beta(0.8, 0.8).cdf).pvalue > 0.01


def test_cutmix_pastes_a_box_and_the_share_is_the_area_that_is_left():
    for one in draws(100, mixup=0.0, cutmix=1.0):
        for i in range(6):
            pasted = one.images[i, 0] == 5 - i
            assert ((one.images[i, 0] == i) | pasted).all()
            assert 1 - pasted.float().mean() == pytest.approx(one.share)
            rows, columns = pasted.any(1).nonzero().ravel(), pasted.any(0).nonzero().ravel()
            if len(rows):
                assert pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def test_cutmix_boxes_have_the_images_aspect_ratio_and_lie_anywhere():
    large = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 400, 600)
    centres = []
    for seed in range(500):
        one = mix(large, np.random.default_rng(seed), mixup=0.0, cutmix=1.0)
        pasted = one.images[0, 0] == 1
        rows, columns = pasted.any(1).nonzero().ravel(), pasted.any(0).nonzero().ravel()
        if len(rows) and rows[0] > 0 and columns[0] > 0 and rows[-1] < 399 and columns[-1] < 599:
            assert len(columns) == pytest.approx(1.5 * len(rows), abs=3)
            centres.append((rows.float().mean() / 400, columns.float().mean() / 600))
    assert len(centres) > 50
    assert torch.tensor(centres).mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.1)


def test_with_both_each_comes_half_of_the_time_and_with_none_nothing_happens():
    cut = [((one.images == IMAGES) | (one.images == IMAGES.flip(0))).all() for one in draws(400, mixup=0.8, cutmix=1.0)]
    assert 160 < sum(cut) < 240
    (one,) = draws(1, mixup=0.0, cutmix=0.0)
    assert one.images is IMAGES
    assert one.share == 1.0


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_the_loss_is_the_cross_entropy_against_the_smoothed_mixture(share):
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    one_hot = F.one_hot(labels, 5).float()
    target = (share * one_hot + (1 - share) * one_hot.flip(0)) * 0.9 + 0.1 / 5
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(mixed_cross_entropy(logits, labels, share, 0.1), expected)
