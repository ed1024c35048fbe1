"""UperNet: pyramid pooling of the coarsest map, then a feature pyramid (arXiv 1807.10221)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from internimage.tasks.layers.conv_norm import ConvNorm, average_over_grid, resize
from internimage.tasks.segmentation.pixel_head import PixelHead


class UperNetHead(PixelHead):
    """The head of UperNet.

    Shapes: the backbone's maps [N, C_i, H_i, W_i], finest first -> logits [N, num_classes, H_0, W_0].

    Args:
        in_channels: C_i.
        num_classes: of the logits.
        channels: of every layer of the head.
        bins: pyramid pooling averages the coarsest map over grids of so many cells a side.
        dropout: see `PixelHead`.
    """

    renames = (
        *PixelHead.renames,
        ("pooling.{i}.conv.{p}", "psp_modules.{i}.1.conv.{p}"),
        ("pooling.{i}.norm.{p}", "psp_modules.{i}.1.bn.{p}"),
        ("pooling_fusion.conv.{p}", "bottleneck.conv.{p}"),
        ("pooling_fusion.norm.{p}", "bottleneck.bn.{p}"),
        ("laterals.{i}.conv.{p}", "lateral_convs.{i}.conv.{p}"),
        ("laterals.{i}.norm.{p}", "lateral_convs.{i}.bn.{p}"),
        ("smoothing.{i}.conv.{p}", "fpn_convs.{i}.conv.{p}"),
        ("smoothing.{i}.norm.{p}", "fpn_convs.{i}.bn.{p}"),
        ("fusion.conv.{p}", "fpn_bottleneck.conv.{p}"),
        ("fusion.norm.{p}", "fpn_bottleneck.bn.{p}"),
    )

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        bins: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
    ) -> None:
        super().__init__(channels, num_classes, dropout=dropout)
        *finer, coarsest = in_channels
        self.bins = tuple(bins)
        self.pooling = nn.ModuleList(ConvNorm(coarsest, channels) for _ in bins)
        self.pooling_fusion = ConvNorm(coarsest + len(self.bins) * channels, channels, kernel_size=3)
        self.laterals = nn.ModuleList(ConvNorm(width, channels) for width in finer)
        self.smoothing = nn.ModuleList(ConvNorm(channels, channels, kernel_size=3) for _ in finer)
        self.fusion = ConvNorm(len(in_channels) * channels, channels, kernel_size=3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        *finer, coarsest = maps
        pyramid = [self._pool(coarsest)]  # coarsest first
        for lateral, x in zip(reversed(self.laterals), reversed(finer), strict=True):
            pyramid.append(lateral(x) + resize(pyramid[-1], x.shape[2:]))
        top, *rest = pyramid
        smoothed = [smooth(x) for smooth, x in zip(self.smoothing, reversed(rest), strict=True)]
        size = maps[0].shape[2:]
        merged = torch.cat([resize(x, size) for x in (*smoothed, top)], dim=1)
        return self.classify(self.fusion(merged))

    def _pool(self, x: Tensor) -> Tensor:
        """What pyramid pooling adds to the coarsest map: averages of its parts, down to the whole (PSPNet)."""
        pooled = [conv(average_over_grid(x, bins)) for conv, bins in zip(self.pooling, self.bins, strict=True)]
        out: Tensor = self.pooling_fusion(torch.cat((x, *(resize(part, x.shape[2:]) for part in pooled)), dim=1))
        return out
