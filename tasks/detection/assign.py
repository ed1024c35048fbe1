"""Which true box each anchor or proposal learns, by the largest overlap (Faster R-CNN, arXiv 1506.01497, 3.1.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from internimage.tasks.detection.boxes import pairwise_iou

BACKGROUND = -1
IGNORED = -2


@dataclass(frozen=True)
class Assigner:
    """Thresholds of intersection over union.

    Attributes:
        positive: a box that overlaps a true one so much learns it.
        negative: one whose largest overlap is below this is background; in between it is ignored.
        least: where not None, each true box is also learned by the boxes that overlap it the most, if so much at least.
    """

    positive: float
    negative: float
    least: float | None = None

    @torch.no_grad()
    def assign(self, boxes: Tensor, truth: Tensor) -> Tensor:
        """[K]: the index of the true box that each box learns, or `BACKGROUND`, or `IGNORED`.

        Args:
            boxes: [K, 4].
            truth: [G, 4], may be empty; where several true boxes claim a box by `least`, the last gets it.
        """
        if not len(truth):
            return torch.full((len(boxes),), BACKGROUND, device=boxes.device)
        overlaps = pairwise_iou(boxes, truth)
        largest, assigned = overlaps.max(dim=1)
        assigned = torch.where(largest < self.negative, BACKGROUND, assigned)
        assigned = torch.where((largest >= self.negative) & (largest < self.positive), IGNORED, assigned)
        if self.least is None or not len(boxes):
            return assigned
        best = overlaps.max(dim=0).values
        claims = (overlaps == best) & (best >= self.least)
        last = torch.where(claims, torch.arange(len(truth), device=boxes.device), -1).max(dim=1).values
        return torch.where(last >= 0, last, assigned)
