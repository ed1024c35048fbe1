"""The head that draws the mask of a region (Mask R-CNN, arXiv 1703.06870, section 3)."""

from __future__ import annotations

from typing import ClassVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from internimage.renames import Row
from internimage.tasks.detection.suppression import at_least_float32
from internimage.tasks.layers.conv_norm import ConvNorm

REGION_SIZE = 14  # cells a side of what it sees of a region
MASK_SIZE = 2 * REGION_SIZE


class MaskHead(nn.Module):
    """Convolutions, an upsampling and a classifier of each cell for each class.

    Shapes: regions [K, in_channels, 14, 14] -> logits [K, num_classes, 28, 28], in float32 at least.

    Args:
        in_channels: of the regions.
        num_classes: without background.
        channels: of the convolutions.
        convs: how many there are.
        plain: upsampling and classifier start as PyTorch starts layers, as in the official cascades.
    """

    renames: ClassVar[tuple[Row, ...]] = (
        ("convs.{j}.conv.{p}", "convs.{j}.conv.{p}"),
        ("upsample.{p}", "upsample.{p}"),
        ("classifier.{p}", "conv_logits.{p}"),
    )

    def __init__(
        self, in_channels: int, num_classes: int, *, channels: int = 256, convs: int = 4, plain: bool = False
    ) -> None:
        super().__init__()
        self.channels = channels
        self.plain = plain
        widths = (in_channels, *(channels for _ in range(convs - 1)))
        self.convs = nn.Sequential(
            *(ConvNorm(width, channels, kernel_size=3, norm=nn.Identity(), bias=True) for width in widths)
        )
        self.upsample = nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)
        if not plain:
            _initialise(self.upsample)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a freshly initialised one."""
        self.num_classes = num_classes
        self.classifier = nn.Conv2d(self.channels, num_classes, kernel_size=1)
        if not self.plain:
            _initialise(self.classifier)

    def forward(self, regions: Tensor) -> Tensor:
        x = F.relu(self.upsample(self.convs(regions)))
        return at_least_float32(self.classifier(x))


def _initialise(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(cast(Tensor, layer.bias))
