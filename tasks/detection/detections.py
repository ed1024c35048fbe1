"""What a detector finds: results of a fixed size for a batch, and one dict for each image."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Detections(NamedTuple):
    """The objects found, best first; those of an image beyond its number in `counts` are padding.

    Attributes:
        boxes: [N, D, 4], in pixels of the padded image; 0 as padding.
        scores: [N, D], probabilities; -1 as padding.
        labels: [N, D], int64; 0 as padding.
        counts: [N].
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    counts: Tensor

    def of_each_image(self) -> list[dict[str, Tensor]]:
        """ "boxes", "scores" and "labels" of every image, without the padding."""
        return [
            {"boxes": boxes[:count], "scores": scores[:count], "labels": labels[:count]}
            for boxes, scores, labels, count in zip(*self[:3], self.counts.tolist(), strict=True)
        ]


class Detector(Protocol):
    """What finds objects in a padded batch."""

    training: bool

    @property
    def has_masks(self) -> bool:
        """It draws masks."""

    def find(self, image: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """See `FixedSizeDetector`."""


class FixedSizeDetector(nn.Module):
    """A detector whose results have a fixed size, so that it compiles whole, exports, and can be packaged.

    Shapes: image [N, 3, H, W], normalised and padded; sizes [N, 2], int64, height and width without padding, which is
    none by default -> boxes [N, D, 4], scores [N, D], labels [N, D], counts [N], and with mask heads the masks'
    probabilities over their boxes [N, D, 28, 28], for `paste_masks`. Rows of an image beyond its number in counts are
    padding. The detections are those of the detector itself.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        self.train(detector.training)

    def forward(self, image: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        return self.detector.find(image, _whole_sizes(image) if sizes is None else sizes)


def _whole_sizes(image: Tensor) -> Tensor:
    """[N, 2], height and width of images without padding, traceable where they are free."""
    n, _, height, width = image.shape
    sides = [torch.full((n, 1), side, device=image.device) for side in (height, width)]
    return torch.cat(sides, dim=1)
