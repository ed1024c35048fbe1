"""The pyramid of DINO: the backbone's maps at one width, and one more level."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import ClassVar, cast

from torch import Tensor, nn

from internimage.renames import Row
from internimage.tasks.layers.conv_norm import ConvNorm

GROUPS = 32  # of every GroupNorm


class ChannelMapper(nn.Module):
    """Maps of one width, each from its own one of the backbone (Deformable DETR, arXiv 2010.04159, appendix A.2).

    Shapes: maps [N, C_i, H_i, W_i], finest first -> [N, channels, H_i, W_i], and a map of half the size of the last,
    which is computed from the backbone's last map, not from the result for it.

    Args:
        in_channels: C_i.
        channels: of the results, a multiple of 32.
    """

    renames: ClassVar[tuple[Row, ...]] = (
        ("maps.{i}.conv.{p}", "convs.{i}.conv.{p}"),
        ("maps.{i}.norm.{p}", "convs.{i}.gn.{p}"),
        ("extra.conv.{p}", "extra_convs.0.conv.{p}"),
        ("extra.norm.{p}", "extra_convs.0.gn.{p}"),
    )

    def __init__(self, in_channels: Sequence[int], channels: int = 256) -> None:
        super().__init__()
        self.maps = nn.ModuleList(
            ConvNorm(width, channels, norm=nn.GroupNorm(GROUPS, channels), relu=False) for width in in_channels
        )
        self.extra = ConvNorm(
            in_channels[-1], channels, kernel_size=3, stride=2, norm=nn.GroupNorm(GROUPS, channels), relu=False
        )
        for unit in chain(cast(Iterable[ConvNorm], self.maps), [self.extra]):
            nn.init.xavier_uniform_(unit.conv.weight)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        # Inductor can't order the strides of a permuted map of free size that two convolutions read (torch 2.13).
        *finer, last = maps
        maps = [*finer, last.contiguous()]
        return [*(unit(x) for unit, x in zip(self.maps, maps, strict=True)), self.extra(maps[-1])]
