"""Boxes as tensors [..., 4] of corners x1, y1, x2, y2 in pixels: overlap, clipping, and deltas between boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_LEAST_AREA = 1e-6  # of a union, which divides
_LARGEST_LOG_RATIO = math.log(1000 / 16)  # a delta may make a box 62.5 times as wide, or the inverse


def box_sides(boxes: Tensor) -> Tensor:
    """[..., 4] -> widths and heights [..., 2]."""
    return boxes[..., 2:] - boxes[..., :2]


def to_centres(boxes: Tensor) -> Tensor:
    """Corners [..., 4] -> centre x and y, width and height [..., 4]."""
    return torch.cat((_centres(boxes), box_sides(boxes)), dim=-1)


def to_corners(boxes: Tensor) -> Tensor:
    """The inverse of `to_centres`."""
    centres, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centres - half, centres + half), dim=-1)


def image_sides(sizes: Tensor, like: Tensor) -> Tensor:
    """Heights and widths of images [..., 2] -> what corners x1, y1, x2, y2 are to be divided by [..., 4]."""
    height, width = sizes.to(like.dtype).unbind(-1)
    return torch.stack((width, height, width, height), dim=-1)


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of each box with each other one: [K, 4], [M, 4] -> [K, M]."""
    intersection, union = _intersection_and_union(boxes[:, None], others)
    return intersection / union


def generalized_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union, less the share of the enclosing box that is in neither (arXiv 1902.09630).

    Shapes: [..., 4], [..., 4], which broadcast -> [...], from -1 to 1.
    """
    intersection, union = _intersection_and_union(boxes, others)
    hull = torch.cat((torch.minimum(boxes, others)[..., :2], torch.maximum(boxes, others)[..., 2:]), dim=-1)
    hull_area = box_sides(hull).clamp(min=0).prod(-1).clamp(min=_LEAST_AREA)
    return intersection / union - (hull_area - union) / hull_area


def _intersection_and_union(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    left_top = torch.maximum(boxes[..., :2], others[..., :2])
    right_bottom = torch.minimum(boxes[..., 2:], others[..., 2:])
    intersection = (right_bottom - left_top).clamp(min=0).prod(-1)
    union = box_sides(boxes).prod(-1) + box_sides(others).prod(-1) - intersection
    return intersection, union.clamp(min=_LEAST_AREA)


def clip_boxes(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Cut off what lies outside the image.

    Args:
        boxes: [..., 4].
        sizes: height and width of the image, pixels: [..., 2], broadcast against the boxes.
    """
    return torch.minimum(boxes.clamp(min=0), image_sides(sizes, boxes))


@dataclass(frozen=True)
class BoxCoder:
    """A box as deltas from another: shift in units of its sides, logarithm of the ratio of sides (R-CNN, 1311.2524).

    Args:
        stds: by which the deltas x, y, width and height are divided.
    """

    stds: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)

    def encode(self, boxes: Tensor, targets: Tensor) -> Tensor:
        """Deltas [..., 4] that lead from the boxes [..., 4] to the targets [..., 4]; no side may be 0."""
        sides, target_sides = box_sides(boxes), box_sides(targets)
        shift = (_centres(targets) - _centres(boxes)) / sides
        return torch.cat((shift, (target_sides / sides).log()), dim=-1) / boxes.new_tensor(self.stds)

    def decode(self, boxes: Tensor, deltas: Tensor) -> Tensor:
        """The boxes [..., 4] that the deltas [..., 4] lead to from the boxes [..., 4]; they broadcast."""
        deltas = deltas * deltas.new_tensor(self.stds)
        sides = box_sides(boxes)
        centres = _centres(boxes) + deltas[..., :2] * sides
        sides = sides * deltas[..., 2:].clamp(-_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO).exp()
        return to_corners(torch.cat((centres, sides), dim=-1))


def _centres(boxes: Tensor) -> Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2
