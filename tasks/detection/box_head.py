"""The head that classifies regions and refines their boxes."""

from __future__ import annotations

from typing import ClassVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from internimage.renames import Row
from internimage.tasks.detection.boxes import BoxCoder
from internimage.tasks.detection.suppression import at_least_float32
from internimage.tasks.layers.conv_norm import ConvNorm

REGION_SIZE = 7  # cells a side of what it sees of a region


class BoxHead(nn.Module):
    """Convolutions if any, fully connected layers, and two classifiers (FPN, arXiv 1612.03144; Mask R-CNN, 1703.06870).

    Shapes: regions [K, in_channels, 7, 7] -> logits [K, num_classes + 1], the last of them background, and deltas
    [K, num_classes, 4], or [K, 1, 4] where all classes share them. In float32 at least.

    Args:
        in_channels: of the regions.
        num_classes: without background.
        channels: of the fully connected layers.
        fcs: how many of those there are.
        convs: how many convolutions with batch norm come before.
        conv_channels: of them.
        class_agnostic: the classes share the deltas.
        coder: what the deltas mean.
    """

    renames: ClassVar[tuple[Row, ...]] = (
        ("convs.{j}.conv.{p}", "shared_convs.{j}.conv.{p}"),
        ("convs.{j}.norm.{p}", "shared_convs.{j}.bn.{p}"),
        ("fcs.{j}.{p}", "shared_fcs.{j}.{p}"),
        ("classifier.{p}", "fc_cls.{p}"),
        ("deltas.{p}", "fc_reg.{p}"),
    )

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        channels: int = 1024,
        fcs: int = 2,
        convs: int = 0,
        conv_channels: int = 256,
        class_agnostic: bool = False,
        coder: BoxCoder,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.class_agnostic = class_agnostic
        self.coder = coder
        widths = (in_channels, *(conv_channels for _ in range(convs)))
        self.convs = nn.Sequential(*(ConvNorm(width, conv_channels, kernel_size=3) for width in widths[:convs]))
        flat = widths[-1] * REGION_SIZE**2
        self.fcs = nn.ModuleList(nn.Linear(channels if i else flat, channels) for i in range(fcs))
        for fc in self.fcs:
            nn.init.xavier_uniform_(cast(Tensor, fc.weight))
            nn.init.zeros_(cast(Tensor, fc.bias))
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace classifier and deltas by freshly initialised ones."""
        self.num_classes = num_classes
        self.classifier = nn.Linear(self.channels, num_classes + 1)
        self.deltas = nn.Linear(self.channels, 4 if self.class_agnostic else 4 * num_classes)
        for layer, std in ((self.classifier, 0.01), (self.deltas, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        x = self.convs(regions).flatten(1)
        for fc in self.fcs:
            x = F.relu(fc(x))
        return at_least_float32(self.classifier(x)), at_least_float32(self.deltas(x)).reshape(x.shape[0], -1, 4)

    def deltas_of(self, deltas: Tensor, labels: Tensor) -> Tensor:
        """Of the deltas [K, classes, 4] those of the labels [K, L]: [K, L, 4]."""
        if self.class_agnostic:
            return deltas.expand(-1, labels.shape[1], -1)
        return deltas.gather(1, labels.unsqueeze(2).expand(-1, -1, 4))
