"""What the heads look at: each region at the level of the pyramid that suits its size (arXiv 1612.03144, 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from internimage.ops import roi_align
from internimage.tasks.detection.boxes import box_sides

STRIDES = (4, 8, 16, 32)
_FINEST_SIDE = 56  # pixels: regions below twice this side are seen at the finest level


def level_of(boxes: Tensor) -> Tensor:
    """[..., 4] -> the level of each box, from 0."""
    side = box_sides(boxes).prod(-1).clamp(min=0).sqrt()
    return (side / _FINEST_SIDE + 1e-6).log2().floor().clamp(0, len(STRIDES) - 1).long()


def to_rois(boxes: Tensor, counts: Tensor) -> Tensor:
    """Padded boxes [N, P, 4], of which `counts` [N] are valid -> [N * P, 5], image index first, -1 for padding."""
    image = torch.arange(boxes.shape[0], device=boxes.device).unsqueeze(1)
    valid = torch.arange(boxes.shape[1], device=boxes.device) < counts.unsqueeze(1)
    index = torch.where(valid, image, -1).to(boxes.dtype)
    return torch.cat((index.unsqueeze(2), boxes), dim=2).flatten(0, 1)


def join_rois(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes [K_i, 4] of each image -> [sum of K_i, 5], image index first."""
    return torch.cat([torch.cat((x.new_full((len(x), 1), index), x), dim=1) for index, x in enumerate(boxes)])


def pool_regions(maps: Sequence[Tensor], rois: Tensor, size: int) -> Tensor:
    """RoIAlign of each region at its level.

    Args:
        maps: [N, C, H_i, W_i], finest first; levels beyond the fourth are not used.
        rois: [K, 5], index of the image and corners in pixels; those of index -1 give 0.
        size: of the result.

    Returns:
        [K, C, size, size].
    """
    level = level_of(rois[:, 1:])
    image = rois[:, :1]
    pooled = [
        roi_align(
            maps[i],
            torch.cat((torch.where((level == i).unsqueeze(1), image, -1), rois[:, 1:]), dim=1),
            size,
            spatial_scale=1 / stride,
        )
        for i, stride in enumerate(STRIDES)
    ]
    return reduce(torch.add, pooled)
