"""The losses count what they should, refuse what they can't, and can be minimised."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from internimage.tasks.segmentation.losses import pixel_accuracy, pixel_loss
from internimage.tasks.segmentation.mask2former import MaskPrediction, semantic_scores
from internimage.tasks.segmentation.mask_loss import mask_loss


def predictions(queries: int = 6, classes: int = 4, size: int = 8, *, seed: int = 0) -> list[MaskPrediction]:
    generator = torch.Generator().manual_seed(seed)
    return [
        MaskPrediction(
            torch.randn(2, queries, classes + 1, generator=generator).requires_grad_(),
            torch.randn(2, queries, size, size, generator=generator).requires_grad_(),
        )
        for _ in range(3)
    ]


def halves(left: int, right: int) -> Tensor:
    """Labels of two images: one class on the left, another on the right."""
    labels = torch.full((2, 16, 16), left, dtype=torch.uint8)
    labels[..., 8:] = right
    return labels


def test_ignored_pixels_count_in_the_average_with_nothing() -> None:
    logits = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    labels = torch.randint(0, 4, (2, 8, 8))
    full = F.cross_entropy(logits, labels, reduction="none")
    labels[:, :2] = 255
    torch.testing.assert_close(pixel_loss(logits, labels), full[:, 2:].sum() / full.numel())
    assert pixel_loss(logits, torch.full_like(labels, 255)) == 0
    assert pixel_accuracy(logits, torch.full_like(labels, 255)) == 0
    best = logits.argmax(1)
    best[0, 0] = (best[0, 0] + 1) % 4
    assert float(pixel_accuracy(logits, best)) == pytest.approx(100 * 120 / 128)


@pytest.mark.parametrize("loss", [pixel_loss, lambda logits, labels: mask_loss(predictions(), labels)])
@pytest.mark.parametrize("labels", [torch.zeros(2, 1, 8, 8).long(), torch.zeros(3, 8, 8).long(), torch.zeros(2, 8, 8)])
def test_labels_of_another_shape_are_refused(loss, labels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected labels \[2, H, W\] of an integer type, one for each image, got"):
        loss(torch.randn(2, 4, 8, 8), labels)


@pytest.mark.parametrize("label", [4, 200])
def test_labels_without_a_class_are_refused(label: int) -> None:
    with pytest.raises(ValueError, match=rf"expected labels from 0 to 3, or 255 for no class, got \[0, {label}\]"):
        mask_loss(predictions(), halves(0, label), points=16)


def test_images_without_labels_teach_that_there_is_no_object() -> None:
    sets = predictions()
    losses = mask_loss(sets, torch.full((2, 16, 16), 255), points=16)
    assert losses["mask"] == losses["dice"] == 0
    expected = F.cross_entropy(sets[-1].class_logits.flatten(0, 1), torch.full((12,), 4))
    torch.testing.assert_close(losses["class"], 2 * expected)
    sum(losses.values()).backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for prediction in sets for x in prediction)


def test_more_classes_than_queries_are_matched_as_far_as_they_go() -> None:
    labels = torch.arange(4, dtype=torch.uint8).repeat(2, 16, 4)
    losses = mask_loss(predictions(queries=3), labels, points=32)
    assert len(losses) == 9
    assert all(loss.isfinite() for loss in losses.values())


def test_predictions_that_are_not_finite_give_losses_that_are_not() -> None:
    sets = predictions()
    with torch.no_grad():
        sets[1].mask_logits.fill_(torch.nan)
    losses = mask_loss(sets, halves(0, 1), points=16)
    assert {name for name, loss in losses.items() if not loss.isfinite()} == {"d1.mask", "d1.dice"}


def test_the_loss_is_computed_in_float32_under_autocast() -> None:
    sets = [MaskPrediction(*(x.detach().bfloat16() for x in prediction)) for prediction in predictions()]
    expected = [MaskPrediction(*(x.float() for x in prediction)) for prediction in sets]
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = mask_loss(sets, halves(0, 1), points=64)
    torch.manual_seed(0)
    torch.testing.assert_close(got, mask_loss(expected, halves(0, 1), points=64), rtol=0, atol=0)


def test_minimising_the_loss_paints_the_labels() -> None:
    torch.manual_seed(0)
    (prediction, *_), labels = predictions(), halves(1, 3)
    optimiser = torch.optim.Adam(prediction, lr=0.2)
    for _ in range(80):
        optimiser.zero_grad()
        sum(mask_loss([prediction], labels, points=128).values()).backward()
        optimiser.step()
    with torch.no_grad():
        painted = semantic_scores(prediction).argmax(1)
    assert torch.equal(painted, labels[:, ::2, ::2].long())
