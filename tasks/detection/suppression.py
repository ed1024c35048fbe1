"""Non-maximum suppression over a batch, with results of a fixed size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from internimage.ops import nms_mask


def at_least_float32(x: Tensor) -> Tensor:
    """Halves become float32: they can't tell the pixels of a large image apart."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def keep_best(
    values: Sequence[Tensor], boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, count: int
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The `count` best candidates of each image that no better one of their group overlaps too much.

    Args:
        values: of the candidates, [N, M, ...] each: what the result should say of them.
        boxes: [N, M, 4].
        scores: [N, M], not negative.
        groups: [N, M], such as a class; those of negative groups are no candidates.
        iou_threshold: see `internimage.ops.nms`.
        count: D, of the results; M where there are fewer.

    Returns:
        The values [N, D, ...] in falling order of the scores, 0 as padding; the scores [N, D], -1 as padding; and how
        many of them are no padding [N].
    """
    image = torch.arange(boxes.shape[0], device=boxes.device).unsqueeze(1)
    apart = torch.where(groups >= 0, groups * boxes.shape[0] + image, -1)  # images don't meet
    kept = _kept(boxes.flatten(0, 1), scores.flatten(), apart.flatten(), iou_threshold).view_as(groups)
    best, chosen = torch.where(kept, scores, -1.0).topk(min(count, scores.shape[1]))
    valid = best >= 0
    return [_taken(x, chosen, valid) for x in values], best, valid.sum(dim=1)


def _kept(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    if torch.compiler.is_compiling():
        return nms_mask(boxes, scores, iou_threshold, groups=groups)
    kept = groups >= 0  # the definition in plain PyTorch would spend its time on padding
    kept[kept.clone()] = nms_mask(boxes[kept], scores[kept], iou_threshold, groups=groups[kept])
    return kept


def _taken(x: Tensor, chosen: Tensor, valid: Tensor) -> Tensor:
    """[N, M, ...] at indices [N, D] -> [N, D, ...]."""
    trailing = (1,) * (x.dim() - 2)
    taken = x.gather(1, chosen.view(*chosen.shape, *trailing).expand(-1, -1, *x.shape[2:]))
    return torch.where(valid.view(*valid.shape, *trailing), taken, 0)
