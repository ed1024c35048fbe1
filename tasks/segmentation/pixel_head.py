"""What the heads that classify each pixel by itself have in common, and the plainest of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from internimage.renames import Row, prefixed
from internimage.tasks.layers.conv_norm import ConvNorm


class PixelHead(nn.Module):
    """A head that ends in a classifier of pixels; its subclass makes of the backbone's maps what is classified.

    Args:
        channels: of the map that is classified.
        num_classes: of the logits.
        dropout: share of the channels that training leaves out before the classifier.
    """

    renames: ClassVar[tuple[Row, ...]] = (("classifier.{p}", "conv_seg.{p}"),)

    def __init__(self, channels: int, num_classes: int, *, dropout: float) -> None:
        super().__init__()
        self.channels = channels
        self.dropout = dropout
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a freshly initialised one."""
        self.num_classes = num_classes
        self.classifier = nn.Conv2d(self.channels, num_classes, kernel_size=1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(cast(Tensor, self.classifier.bias))

    def classify(self, x: Tensor) -> Tensor:
        """Map [N, channels, H, W] -> logits [N, num_classes, H, W]."""
        logits: Tensor = self.classifier(F.dropout2d(x, self.dropout, self.training))
        return logits

    def semantic_scores(self, logits: Tensor) -> Tensor:
        """What `forward` returns -> a score for each class and pixel: it is that already."""
        return logits


class FCNHead(PixelHead):
    """One convolution and the classifier, on one of the maps (FCN, arXiv 1411.4038); training's auxiliary head.

    Shapes: the backbone's maps [N, C_i, H_i, W_i] -> logits [N, num_classes, H, W] at the size of the map used.

    Args:
        in_channels: C_i, of the backbone's maps.
        num_classes: of the logits.
        index: of the map used.
        channels: of the convolution.
        dropout: see `PixelHead`.
    """

    renames = (
        *PixelHead.renames,
        *prefixed((("conv.conv.{p}", "conv.{p}"), ("conv.norm.{p}", "bn.{p}")), "", "convs.0."),
    )

    def __init__(
        self, in_channels: Sequence[int], num_classes: int, *, index: int = 2, channels: int = 256, dropout: float = 0.1
    ) -> None:
        super().__init__(channels, num_classes, dropout=dropout)
        self.index = index
        self.conv = ConvNorm(in_channels[index], channels, kernel_size=3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classify(self.conv(maps[self.index]))
