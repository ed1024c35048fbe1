"""Boxes overlap, clip and turn into deltas as they should."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from internimage.tasks.detection.boxes import BoxCoder, clip_boxes, generalized_iou, pairwise_iou

seeds = st.integers(0, 2**31)
quick = settings(max_examples=20, deadline=None)


def boxes_of(count: int, seed: int, *, side: float = 50.0, whole: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator, dtype=torch.float64) * side
    sides = torch.rand(count, 2, generator=generator, dtype=torch.float64) * side / 2 + 1
    boxes = torch.cat((corners, corners + sides), dim=1)
    return boxes.round() if whole else boxes


def painted(boxes: Tensor, side: int = 80) -> Tensor:
    """[K, side, side]: the pixels of boxes with whole corners."""
    place = torch.arange(side)
    x1, y1, x2, y2 = (edge.view(-1, 1) for edge in boxes.T)
    rows, columns = (place >= y1) & (place < y2), (place >= x1) & (place < x2)
    return rows.unsqueeze(2) & columns.unsqueeze(1)


@given(seeds)
@quick
def test_overlap_is_that_of_painted_pixels(seed: int) -> None:
    boxes, others = boxes_of(6, seed, whole=True), boxes_of(4, seed + 1, whole=True)
    a, b = painted(boxes).flatten(1)[:, None], painted(others).flatten(1)
    torch.testing.assert_close(pairwise_iou(boxes, others), ((a & b).sum(-1) / (a | b).sum(-1)).double())


def test_overlaps_are_those_of_torchvision() -> None:
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed: pip install torchvision")
    boxes, others = boxes_of(30, 0), boxes_of(30, 1)
    torch.testing.assert_close(pairwise_iou(boxes, others), ops.box_iou(boxes, others))
    torch.testing.assert_close(generalized_iou(boxes, others), ops.generalized_box_iou(boxes, others).diag())
    coder = ops.boxes.clip_boxes_to_image(boxes, (40, 30))
    assert torch.equal(clip_boxes(boxes, torch.tensor([40, 30])), coder)


def test_generalised_overlap_falls_with_the_distance() -> None:
    box = torch.tensor([0.0, 0.0, 10.0, 10.0])
    moved = torch.stack([box + torch.tensor([d, 0.0, d, 0.0]) for d in (0.0, 5.0, 10.0, 30.0)])
    values = generalized_iou(box.expand_as(moved), moved)
    torch.testing.assert_close(values, torch.tensor([1.0, 1 / 3, 0.0, -0.5]))


def test_boxes_without_area_have_finite_overlaps_and_gradients() -> None:
    point = torch.zeros(1, 4, requires_grad=True)
    value = generalized_iou(point, torch.zeros(1, 4)) + pairwise_iou(point, torch.zeros(1, 4)).sum()
    value.sum().backward()
    assert value.isfinite().all()
    assert point.grad.isfinite().all()


@given(seeds)
@quick
def test_decoding_inverts_encoding(seed: int) -> None:
    coder = BoxCoder((0.1, 0.1, 0.2, 0.2))
    boxes, targets = boxes_of(5, seed), boxes_of(5, seed + 1)
    torch.testing.assert_close(coder.decode(boxes, coder.encode(boxes, targets)), targets)


def test_no_delta_makes_a_box_infinite() -> None:
    box = torch.tensor([0.0, 0.0, 16.0, 16.0])
    decoded = BoxCoder().decode(box, torch.tensor([0.0, 0.0, 1000.0, -1000.0]))
    torch.testing.assert_close(decoded[2] - decoded[0], torch.tensor(1000.0))
    torch.testing.assert_close(decoded[3] - decoded[1], torch.tensor(0.256))


def test_each_image_clips_its_own_boxes() -> None:
    boxes = torch.tensor([[-5.0, -5.0, 100.0, 100.0]]).expand(2, 3, 4)
    clipped = clip_boxes(boxes, torch.tensor([[40, 30], [20, 90]])[:, None])
    assert clipped[:, 0].tolist() == [[0, 0, 30, 40], [0, 0, 90, 20]]
