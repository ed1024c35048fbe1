"""What the heads of a two-stage detector are trained by. Each loss of boxes is a sum; its caller divides."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from internimage.tasks.detection.boxes import BoxCoder, generalized_iou


class BoxLoss(Protocol):
    """Deltas [K, 4] predicted for boxes [K, 4] that should become the true boxes [K, 4] -> the sum of their losses."""

    def __call__(self, deltas: Tensor, boxes: Tensor, truth: Tensor, coder: BoxCoder) -> Tensor: ...


def delta_loss(deltas: Tensor, boxes: Tensor, truth: Tensor, coder: BoxCoder, *, beta: float = 0.0) -> Tensor:
    """Smooth L1 between the deltas and the right ones (Fast R-CNN, arXiv 1504.08083, equation 3); see `BoxLoss`.

    Args:
        deltas, boxes, truth, coder: see `BoxLoss`.
        beta: below this difference the loss is quadratic; 0 is L1.
    """
    return F.smooth_l1_loss(deltas, coder.encode(boxes, truth), reduction="sum", beta=beta)


def giou_loss(deltas: Tensor, boxes: Tensor, truth: Tensor, coder: BoxCoder, *, weight: float = 10.0) -> Tensor:
    """What lacks to full overlap after decoding (arXiv 1902.09630), times `weight`; see `BoxLoss`."""
    return weight * (1 - generalized_iou(coder.decode(boxes, deltas), truth)).sum()


def mask_loss(logits: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
    """Binary cross entropy of the map of the right class, averaged over objects and pixels; 0 without objects.

    Args:
        logits: [K, classes, H, W].
        labels: [K].
        masks: [K, H, W], 0 or 1.
    """
    of_class = logits.gather(1, labels.view(-1, 1, 1, 1).expand(-1, -1, *logits.shape[2:])).squeeze(1)
    losses = F.binary_cross_entropy_with_logits(of_class, masks.to(logits.dtype), reduction="sum")
    return losses / max(masks.numel(), 1)
