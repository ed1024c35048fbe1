"""Suppression, pooling of regions and masks over them equal plain versions of themselves."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from internimage.ops import roi_align
from internimage.tasks.detection.anchors import Anchors, lie_inside
from internimage.tasks.detection.boxes import pairwise_iou
from internimage.tasks.detection.masks import mask_targets, paste_masks, paste_probability
from internimage.tasks.detection.pooling import join_rois, level_of, pool_regions, to_rois
from internimage.tasks.detection.suppression import keep_best


@given(st.integers(0, 2**31), st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_the_best_that_remain_are_those_of_a_loop(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(2, 30, 2, generator=generator) * 20
    boxes = torch.cat((corners, corners + 10), dim=2)
    scores, groups = torch.rand(2, 30, generator=generator), torch.randint(-1, 3, (2, 30), generator=generator)
    (got, indices), best, counts = keep_best((boxes, torch.arange(30).expand(2, 30)), boxes, scores, groups, 0.4, count)
    for image in range(2):
        kept: list[int] = []
        for index in scores[image].argsort(descending=True).tolist():
            rivals = [k for k in kept if groups[image, k] == groups[image, index]]
            overlaps = pairwise_iou(boxes[image, [index]], boxes[image, rivals])
            if groups[image, index] >= 0 and not (overlaps > 0.4).any():
                kept.append(index)
        kept = kept[:count]
        assert int(counts[image]) == len(kept)
        assert indices[image, : len(kept)].tolist() == kept
        assert torch.equal(got[image, : len(kept)], boxes[image, kept])
        assert (best[image, len(kept) :] == -1).all()
        assert not got[image, len(kept) :].any()


def test_regions_are_pooled_from_the_map_of_their_level() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 256 // stride, 256 // stride) for stride in (4, 8, 16, 32, 64)]
    sides = torch.tensor([20.0, 111.0, 113.0, 230.0, 250.0])
    corners = torch.stack((torch.full_like(sides, 3), torch.full_like(sides, 2), 3 + sides, 2 + sides), dim=1)
    assert level_of(corners).tolist() == [0, 0, 1, 2, 2]
    assert level_of(torch.tensor([0.0, 0, 600, 600])) == 3
    rois = join_rois([corners[:2], corners[2:]])
    pooled = pool_regions(maps, rois, 7)
    for roi, level, got in zip(rois, level_of(corners), pooled, strict=True):
        torch.testing.assert_close(got, roi_align(maps[level], roi[None], 7, spatial_scale=1 / (4 << int(level)))[0])
    padded = to_rois(torch.stack((corners, corners.flip(0))), torch.tensor([2, 0]))
    pooled = pool_regions(maps, padded, 7)
    assert pooled[:2].any()
    assert not pooled[2:].any()


def test_boxes_without_area_are_pooled_to_finite_values() -> None:
    maps = [torch.randn(1, 2, 64 // stride, 64 // stride) for stride in (4, 8, 16, 32, 64)]
    assert pool_regions(maps, torch.tensor([[0.0, 5, 5, 5, 5], [0, 9, 9, 2, 2]]), 7).isfinite().all()
    assert pool_regions(maps, torch.zeros(0, 5), 7).shape == (0, 2, 7, 7)


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_pasting_is_sampling_of_the_whole_image(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probability = torch.rand(28, 28, generator=generator, dtype=torch.float64)
    corner, sides = (torch.rand(2, 2, generator=generator, dtype=torch.float64) * 60).unbind()
    box = torch.cat((corner - 10, corner - 10 + sides + 0.5))
    centre = torch.arange(50, dtype=torch.float64) + 0.5
    x, y = (2 * (centre - box[i]) / (box[i + 2] - box[i]) - 1 for i in (0, 1))
    grid = torch.stack((x.expand(50, 50), y[:, None].expand(50, 50)), dim=-1)
    expected = F.grid_sample(probability[None, None], grid[None], align_corners=False)[0, 0]
    whole = slice(0, 50)
    torch.testing.assert_close(paste_probability(probability, box, whole, whole), expected)
    assert torch.equal(paste_masks(probability[None], box[None], (50, 50))[0], expected >= 0.5)


@pytest.mark.parametrize("box", [[5.0, 5, 5, 9], [-40, -40, -30, -30], [200, 200, 220, 220], [5, 5, 5, 5]])
def test_boxes_of_nothing_paste_nothing(box: list[float]) -> None:
    assert not paste_masks(torch.ones(1, 28, 28), torch.tensor([box]), (30, 40)).any()
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (30, 40)).shape == (0, 30, 40)


def test_a_target_pasted_back_is_the_mask() -> None:
    y, x = torch.meshgrid(torch.arange(80), torch.arange(100), indexing="ij")
    disc = ((y - 40) ** 2 + (x - 50) ** 2 < 30**2).unsqueeze(0)
    box = torch.tensor([[15.0, 6, 86, 75]])
    target = mask_targets(disc, torch.tensor([0]), box, 28)
    again = paste_masks(target.float(), box, (80, 100))
    assert (again & disc).sum() / (again | disc).sum() > 0.95


def test_anchors_stand_on_multiples_of_the_stride() -> None:
    anchors = Anchors()
    boxes = anchors.of_level(2, 3, 5, torch.zeros(())).view(3, 5, 3, 4)
    centres, sides = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    for row in range(3):
        for column in range(5):
            torch.testing.assert_close(centres[row, column], torch.tensor([column, row]).mul(16.0).expand(3, 2))
    torch.testing.assert_close(sides.prod(-1), torch.full((3, 5, 3), 128.0**2))
    torch.testing.assert_close((sides[..., 1] / sides[..., 0])[0, 0], torch.tensor([0.5, 1, 2]))


def test_anchors_count_where_their_position_or_all_of_them_is_inside() -> None:
    inside = Anchors().inside_padded(3, 4, 6, (64, 96)).view(4, 6, 3)
    assert inside[:2, :3].all()
    assert not inside[2:].any()
    assert not inside[:, 3:].any()
    boxes = torch.tensor([[0.0, 0, 9, 9], [-1, 0, 5, 5], [0, 0, 10, 5], [0, 0, 5, 20]])
    assert lie_inside(boxes, (20, 10)).tolist() == [True, False, False, False]
