"""Losses of the heads that classify each pixel by itself, and what they share with Mask2Former's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from internimage.tasks.layers.conv_norm import resize
from internimage.tasks.segmentation.class_names import IGNORED

AUXILIARY_WEIGHT = 0.4


def pixel_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of the logits at the size of the labels, averaged over all pixels.

    As in the official training the ignored pixels count in the average with 0.

    Args:
        logits: [N, classes, h, w].
        labels: [N, H, W] of an integer type, 255 where a pixel belongs to no class.

    Raises:
        ValueError: labels of another shape.
    """
    check_labels(labels, len(logits))
    logits = resize(logits, labels.shape[1:])
    return F.cross_entropy(logits, labels.long(), ignore_index=IGNORED, reduction="sum") / labels.numel()


@torch.no_grad()
def pixel_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Percentage of the pixels with a class that are classified right; arguments as in `pixel_loss`."""
    check_labels(labels, len(logits))
    valid = labels != IGNORED
    right = (resize(logits, labels.shape[1:]).argmax(dim=1) == labels) & valid
    return 100.0 * right.sum() / valid.sum().clamp(min=1)


def check_labels(labels: Tensor, images: int) -> None:
    """Raise what the losses raise for labels that are not [N, H, W]."""
    if labels.ndim != 3 or len(labels) != images or labels.is_floating_point():
        raise ValueError(
            f"expected labels [{images}, H, W] of an integer type, one for each image, got {list(labels.shape)} of "
            f"{labels.dtype}; remove a channel dimension with labels[:, 0]"
        )
