"""What one model sees in one image. Here alone it matters of which kind the detector is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from internimage.tasks.detection.detections import Detections
from internimage.tasks.detection.dino import DINO
from internimage.tasks.detection.mask_rcnn import MaskRCNN


@dataclass(frozen=True)
class Seen:
    """The objects that a model sees in an image, the surest first.

    Attributes:
        boxes: [K, 4], corners in pixels of the image.
        scores: [K].
        labels: [K].
        draw: boxes [M, 4] and their labels [M] -> probabilities [M, h, w] of the pixels of these boxes, whether or not
            the model has found them; None: the model draws no masks.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    draw: Callable[[Tensor, Tensor], Tensor] | None


@runtime_checkable
class Looking(Protocol):
    """A detector that draws masks of any boxes when it has looked at an image, as `MaskRCNN` does."""

    has_masks: bool

    def look(self, image: Tensor) -> tuple[Any, Detections]: ...

    def draw(self, maps: Any, boxes: Tensor, labels: Tensor) -> Tensor: ...


def see(model: nn.Module, image: Tensor) -> Seen:
    """Look at one normalised image [3, H, W].

    Args:
        model: a detector in evaluation mode: a `Looking` one, or any that makes of a list of images a list of dicts of
            "boxes", "scores" and "labels".
        image: for it.
    """
    if isinstance(model, Looking):
        maps, found = model.look(image)
        count = int(found.counts[0])
        draw = partial(model.draw, maps) if model.has_masks else None
        return Seen(found.boxes[0, :count], found.scores[0, :count], found.labels[0, :count], draw)
    (result,) = model([image])
    return Seen(result["boxes"], result["scores"], result["labels"], None)


def limit_detections(model: nn.Module, count: int) -> None:
    """Let a model find up to so many objects in an image, where it can be told."""
    if isinstance(model, DINO):
        model.per_image = count
    elif isinstance(model, MaskRCNN):
        model.roi_heads.selection = replace(model.roi_heads.selection, per_image=count)
