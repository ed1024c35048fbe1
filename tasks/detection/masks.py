"""Masks of objects: from the image to a small grid on a box, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from internimage.ops import roi_align
from internimage.tasks.detection.boxes import clip_boxes

_THRESHOLD = 0.5


@torch.no_grad()
def mask_targets(masks: Tensor, matched: Tensor, boxes: Tensor, size: int) -> Tensor:
    """What the mask head should say of boxes: the true mask's average over each cell, at least one half.

    Args:
        masks: [G, H, W], 0 or 1.
        matched: [K], which mask belongs to a box.
        boxes: [K, 4].
        size: cells a side.

    Returns:
        [K, size, size], bool.
    """
    boxes = clip_boxes(boxes, torch.tensor(masks.shape[1:], device=boxes.device))
    learned, place = torch.unique(matched, return_inverse=True)  # few of a crowd; as numbers they take much memory
    rois = torch.cat((place.unsqueeze(1).to(boxes.dtype), boxes), dim=1)
    averages: Tensor = roi_align(masks[learned].unsqueeze(1).to(boxes.dtype), rois, size)
    return averages.squeeze(1) >= _THRESHOLD


def paste_masks(probabilities: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Stretch the probabilities over their boxes, bilinearly, and cut at one half.

    Args:
        probabilities: [K, h, w], over the boxes.
        boxes: [K, 4], in pixels of an image.
        size: its height and width.

    Returns:
        [K, height, width], bool.
    """
    pasted = torch.zeros(len(boxes), *size, dtype=torch.bool, device=boxes.device)
    for mask, probability, box in zip(pasted, probabilities, boxes, strict=True):
        x, y = (_touched(box[i], box[i + 2], side) for i, side in ((0, size[1]), (1, size[0])))
        mask[y, x] = paste_probability(probability, box, y, x) >= _THRESHOLD
    return pasted


def paste_probability(probability: Tensor, box: Tensor, rows: slice, columns: slice) -> Tensor:
    """A map [h, w], stretched over a box [4], in some rows and columns of the image; 0 far from the box."""
    x1, y1, x2, y2 = box.to(probability.dtype)
    along_y = _weights(y1, y2, probability.shape[0], rows)
    along_x = _weights(x1, x2, probability.shape[1], columns)
    return along_y @ probability @ along_x.T


def _weights(begin: Tensor, end: Tensor, cells: int, pixels: slice) -> Tensor:
    """[pixels, cells]: what each cell of a box contributes to each pixel by linear interpolation."""
    centre = torch.arange(pixels.start, pixels.stop, dtype=begin.dtype, device=begin.device) + 0.5
    place = (centre - begin) / (end - begin) * cells - 0.5
    cell = torch.arange(cells, device=begin.device)
    return (1 - (place.unsqueeze(1) - cell).abs()).clamp(min=0).nan_to_num()


def _touched(begin: Tensor, end: Tensor, side: int) -> slice:
    """The pixels of one axis that a box can reach, and those beside them."""
    first = min(max(int(begin.floor()) - 1, 0), side)
    return slice(first, min(max(int(end.ceil()) + 1, first), side))
