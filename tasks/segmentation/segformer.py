"""The all-MLP head of SegFormer (arXiv 2105.15203): every map to one width and size, then one fusion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from internimage.tasks.layers.conv_norm import ConvNorm, resize
from internimage.tasks.segmentation.pixel_head import PixelHead


class SegFormerHead(PixelHead):
    """The head of SegFormer.

    Shapes: the backbone's maps [N, C_i, H_i, W_i], finest first -> logits [N, num_classes, H_0, W_0].

    Args:
        in_channels: C_i.
        num_classes: of the logits.
        channels: of every layer of the head.
        dropout: see `PixelHead`.
    """

    renames = (
        *PixelHead.renames,
        ("projections.{i}.conv.{p}", "convs.{i}.conv.{p}"),
        ("projections.{i}.norm.{p}", "convs.{i}.bn.{p}"),
        ("fusion.conv.{p}", "fusion_conv.conv.{p}"),
        ("fusion.norm.{p}", "fusion_conv.bn.{p}"),
    )

    def __init__(
        self, in_channels: Sequence[int], num_classes: int, *, channels: int = 256, dropout: float = 0.1
    ) -> None:
        super().__init__(channels, num_classes, dropout=dropout)
        self.projections = nn.ModuleList(ConvNorm(width, channels) for width in in_channels)
        self.fusion = ConvNorm(len(in_channels) * channels, channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = maps[0].shape[2:]
        projected = [resize(project(x), size) for project, x in zip(self.projections, maps, strict=True)]
        return self.classify(self.fusion(torch.cat(projected, dim=1)))
