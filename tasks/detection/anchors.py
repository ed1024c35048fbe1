"""Anchors: the boxes, at each position of each level of a pyramid, that proposals start from (arXiv 1506.01497)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Anchors:
    """What anchors there are: one for each shape and position, centred on multiples of the stride.

    Attributes:
        strides: of the levels, pixels.
        scale: square root of an anchor's area, in strides.
        ratios: height by width of the anchors of a position.
    """

    strides: tuple[int, ...] = (4, 8, 16, 32, 64)
    scale: float = 8.0
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)

    def shapes(self, stride: int, like: Tensor) -> Tensor:
        """[A, 4]: the anchors of one position, relative to it."""
        root = torch.tensor(self.ratios, dtype=like.dtype, device=like.device).sqrt()
        half = self.scale * stride / 2
        right_bottom = torch.stack((half / root, half * root), dim=1)
        return torch.cat((-right_bottom, right_bottom), dim=1)

    def of_level(self, level: int, height: int, width: int, like: Tensor) -> Tensor:
        """[height * width * A, 4]: the anchors of a level, row by row; those of a position lie together."""
        stride = self.strides[level]
        y = torch.arange(height, dtype=like.dtype, device=like.device) * stride
        x = torch.arange(width, dtype=like.dtype, device=like.device) * stride
        position = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1).repeat(1, 1, 2)
        return (position.unsqueeze(2) + self.shapes(stride, like)).flatten(0, 2)

    def of_levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The anchors of each level, in float32 at least, from its map [N, C, H, W]."""
        like = maps[0].new_empty((), dtype=torch.promote_types(maps[0].dtype, torch.float32))
        return [self.of_level(level, x.shape[2], x.shape[3], like) for level, x in enumerate(maps)]

    def inside_padded(self, level: int, height: int, width: int, padded: tuple[int, int]) -> Tensor:
        """[height * width * A], bool: whether the position lies in the padded image, which a batch may exceed.

        Args:
            level: whose map is [height, width].
            height: rows.
            width: columns.
            padded: height and width of the padded image, pixels.
        """
        rows, columns = (-(-side // self.strides[level]) for side in padded)
        inside = (torch.arange(height) < rows)[:, None] & (torch.arange(width) < columns)
        return inside.flatten().repeat_interleave(len(self.ratios))


def lie_inside(anchors: Tensor, size: tuple[int, int]) -> Tensor:
    """[K], bool: whether no part of an anchor [K, 4] lies outside an image of this height and width."""
    height, width = size
    x1, y1, x2, y2 = anchors.unbind(1)
    return (x1 >= 0) & (y1 >= 0) & (x2 < width) & (y2 < height)
