"""What one model sees in one image. Here alone it matters of which kind the detector is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn

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


def see(model: nn.Module, image: Tensor) -> Seen:
    """Look at one normalised image [3, H, W].

    Args:
        model: a detector in evaluation mode: a list of images -> a dict of "boxes", "scores" and "labels" for each.
        image: for it.
    """
    if isinstance(model, MaskRCNN):
        maps, found = model.look(image)
        count = int(found.counts[0])
        draw = partial(model.draw, maps) if model.has_masks else None
        return Seen(found.boxes[0, :count], found.scores[0, :count], found.labels[0, :count], draw)
    (result,) = model([image])
    return Seen(result["boxes"], result["scores"], result["labels"], None)


def limit_detections(model: nn.Module, count: int) -> None:
    """Let a model find up to so many objects in an image, where it can be told."""
    if isinstance(model, MaskRCNN):
        model.roi_heads.selection = replace(model.roi_heads.selection, per_image=count)
