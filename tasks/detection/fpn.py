"""Feature pyramid network (arXiv 1612.03144)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from internimage.renames import Row


class FPN(nn.Module):
    """Maps of one width, each enriched by the coarser ones, and one more level.

    Shapes: maps [N, C_i, H_i, W_i], finest first -> [N, channels, H_i, W_i], and every second pixel of the last.

    Args:
        in_channels: C_i.
        channels: of the pyramid.
    """

    renames: ClassVar[tuple[Row, ...]] = (
        ("laterals.{i}.{p}", "lateral_convs.{i}.conv.{p}"),
        ("smoothing.{i}.{p}", "fpn_convs.{i}.conv.{p}"),
    )

    def __init__(self, in_channels: Sequence[int], channels: int = 256) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, kernel_size=1) for width in in_channels)
        self.smoothing = nn.ModuleList(nn.Conv2d(channels, channels, kernel_size=3, padding=1) for _ in in_channels)
        for conv in (*self.laterals, *self.smoothing):
            nn.init.xavier_uniform_(cast(Tensor, conv.weight))
            nn.init.zeros_(cast(Tensor, conv.bias))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        levels = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for coarser, finer in pairwise(reversed(range(len(levels)))):
            levels[finer] = levels[finer] + F.interpolate(levels[coarser], levels[finer].shape[2:], mode="nearest")
        levels = [smooth(x) for smooth, x in zip(self.smoothing, levels, strict=True)]
        return [*levels, F.max_pool2d(levels[-1], kernel_size=1, stride=2)]  # a slice would not export
