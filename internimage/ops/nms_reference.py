"""Greedy non-maximum suppression in plain PyTorch: the definition that every kernel is tested against."""

import torch
from torch import Tensor

_BLOCK = 512  # boxes that are compared with all later ones at once


def nms(boxes: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Whether each box is kept: if its group is not negative, and no kept box before it in its group overlaps too much.

    Args:
        boxes: [K, 4], corners x1, y1, x2, y2, in falling order of score within each group.
        groups: [K], int64, in any order here; the operator wants those of one group side by side.

    Returns:
        [K], bool.
    """
    kept = groups >= 0
    for begin in range(0, len(boxes), _BLOCK):
        end = begin + _BLOCK
        overlaps = _overlap(boxes[begin:end], boxes[begin:], iou_threshold)
        overlaps &= groups[begin:end, None] == groups[begin:]
        block = _suppress(kept[begin:end], overlaps[:, :_BLOCK].triu(1))
        later = kept[end:] & ~(block.unsqueeze(1) & overlaps[:, _BLOCK:]).any(0)
        kept = torch.cat((kept[:begin], block, later))
    return kept


def _suppress(candidates: Tensor, suppresses: Tensor) -> Tensor:
    """[B]: the one set of candidates in which none suppresses another and which suppresses all others.

    Each round is right for one more box at least, as `suppresses` [B, B] is zero on and below its diagonal; a set that
    a round leaves as it is, is the answer.
    """
    kept = candidates
    while True:
        found = candidates & ~(kept.unsqueeze(1) & suppresses).any(0)
        if torch.equal(found, kept):
            return kept
        kept = found


def _overlap(boxes: Tensor, others: Tensor, iou_threshold: float) -> Tensor:
    """[A, B]: whether intersection over union is above the threshold; false where it is 0 / 0 or NaN."""
    left_top = torch.maximum(boxes[:, None, :2], others[:, :2])
    right_bottom = torch.minimum(boxes[:, None, 2:], others[:, 2:])
    intersection = (right_bottom - left_top).clamp(min=0).prod(-1)
    union = _area(boxes).unsqueeze(1) + _area(others) - intersection
    return intersection / union > iou_threshold


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)
