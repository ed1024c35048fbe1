"""From a detector to the objects of a picture: at one or several scales, mirrored, masks at the picture's size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from internimage.tasks.detection.boxes import clip_boxes
from internimage.tasks.detection.masks import paste_masks
from internimage.tasks.detection.merging import Boxes, Merge
from internimage.tasks.detection.objects import RLE, Found
from internimage.tasks.detection.pycoco import mask_tools
from internimage.tasks.detection.seeing import Seen, see
from internimage.tasks.resizing import Size

_MASKS_AT_ONCE = 16  # at the picture's size: 128 MiB of a picture of 8 megapixels


@dataclass(frozen=True)
class _View:
    """One view of a picture: its width and height relative to the picture's, whether mirrored, and what was seen."""

    scale: Tensor  # [4], of x1, y1, x2, y2
    width: int
    mirrored: bool
    seen: Seen

    def from_picture(self, boxes: Tensor) -> Tensor:
        boxes = boxes * self.scale
        return _mirror(boxes, self.width) if self.mirrored else boxes

    def boxes(self) -> Tensor:
        """What was seen, in pixels of the picture."""
        boxes = self.seen.boxes
        return (_mirror(boxes, self.width) if self.mirrored else boxes) / self.scale

    def draw(self, boxes: Tensor, labels: Tensor) -> Tensor:
        """Probabilities over boxes of the picture."""
        assert self.seen.draw is not None
        drawn = self.seen.draw(self.from_picture(boxes), labels)
        return drawn.flip(-1) if self.mirrored else drawn


@torch.inference_mode()
def find_objects(
    model: nn.Module, views: Sequence[Tensor], size: Size, *, mirrored: bool, merge: Merge, limit: int
) -> Found:
    """What a detector finds in one picture.

    Args:
        model: see `seeing.see`.
        views: of the picture, normalised [3, h, w] each, on the model's device.
        size: height and width of the picture.
        mirrored: look at each view's mirror image as well.
        merge: what makes one of several views; one alone stays as it is. Masks are drawn in each view for the boxes
            that result, and their probabilities averaged.
        limit: of detections.

    Returns:
        Boxes in pixels of the picture, masks of its size.

    Raises:
        ValueError: no view.
    """
    looks = list(_looks(model, views, size, mirrored))
    if not looks:
        raise ValueError("find_objects: expected at least one view of the picture, got none")
    device = looks[0].scale.device
    pictured = torch.tensor(size, device=device)
    parts = [(clip_boxes(look.boxes(), pictured), look.seen.scores, look.seen.labels) for look in looks]
    found = Boxes(*(torch.cat(values).cpu().numpy() for values in zip(*parts, strict=True)))
    found = Boxes(found.boxes.astype(np.float32), found.scores.astype(np.float32), found.labels.astype(np.int64))
    if len(looks) > 1:
        found = merge(found, len(looks))
    found = Boxes(found.boxes[:limit], found.scores[:limit], found.labels[:limit])
    masks = None
    if all(look.seen.draw is not None for look in looks):
        boxes, labels = (torch.from_numpy(values).to(device) for values in (found.boxes, found.labels))
        drawn = torch.stack([look.draw(boxes, labels) for look in looks]).mean(dim=0)
        masks = tuple(_encoded(drawn, boxes, size))
    return Found(*found, masks)


def _looks(model: nn.Module, views: Sequence[Tensor], size: Size, mirrored: bool) -> Iterator[_View]:
    for view in views:
        height, width = view.shape[1:]
        scale = torch.tensor([width / size[1], height / size[0]] * 2, device=view.device)
        yield _View(scale, width, False, see(model, view))
        if mirrored:
            yield _View(scale, width, True, see(model, view.flip(-1)))


def _mirror(boxes: Tensor, width: int) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((width - x2, y1, width - x1, y2), dim=-1)


def _encoded(probabilities: Tensor, boxes: Tensor, size: Size) -> Iterator[RLE]:
    encode = mask_tools().encode
    for start in range(0, len(boxes), _MASKS_AT_ONCE):
        part = slice(start, start + _MASKS_AT_ONCE)
        for mask in paste_masks(probabilities[part], boxes[part], size).cpu().numpy():
            yield encode(np.asfortranarray(mask, dtype=np.uint8))
