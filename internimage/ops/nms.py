"""Non-maximum suppression: argument checks, order, and the forms in which detectors want the result."""

from typing import cast

import torch
from torch import Tensor

from internimage.ops import nms_reference as reference
from internimage.ops.backend import get_backend
from internimage.ops.build import native_available
from internimage.ops.kernel_operator import FLOATING
from internimage.ops.schema import SCHEMA_VERSION, check_version, library


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that remain when each kept one removes those of lower score that overlap it too much.

    Args:
        boxes: [K, 4], corners x1, y1, x2, y2, in pixels.
        scores: [K]; of equal ones the first comes first, NaN counts as the highest.
        iou_threshold: intersection over union above which a box is removed, from 0 to 1.

    Returns:
        [kept], int64, in falling order of score.

    Raises:
        ValueError: shapes, dtypes, devices or a threshold that do not fit.
        RuntimeError: the backend "native" was asked for and has no kernel for this device.
    """
    return _indices(nms_mask(boxes, scores, iou_threshold), scores)


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """`nms` within each group, such as a class, a pyramid level or an image.

    Boxes of different groups never meet. Shifting each group beyond the last one, as is often done, gives the same up
    to rounding, and loses the digits that the shift takes.

    Args:
        groups: [K], integers; boxes of a negative group are dropped. The others: as for `nms`, and so the result.
    """
    return _indices(nms_mask(boxes, scores, iou_threshold, groups=groups), scores)


def nms_mask(boxes: Tensor, scores: Tensor, iou_threshold: float, *, groups: Tensor | None = None) -> Tensor:
    """Which boxes `nms` keeps, or `batched_nms` with `groups`: [K], bool.

    As the result's size is known, this form compiles, exports and packages. Padding gets a negative group: it is not
    kept and removes nothing. A box of no area, or with NaN, neither removes nor is removed.
    """
    _check(boxes, scores, iou_threshold, groups)
    order = scores.detach().argsort(descending=True, stable=True)
    if groups is None:
        groups = torch.zeros_like(order)
    else:
        groups = groups.long()
        order = order[groups[order].argsort(stable=True)]  # the operator wants those of one group side by side
    boxes = boxes.detach().to(torch.promote_types(boxes.dtype, torch.float32))
    kept = _run(boxes[order], groups[order], float(iou_threshold))
    return torch.zeros_like(kept).scatter(0, order, kept)


def _indices(kept: Tensor, scores: Tensor) -> Tensor:
    indices = kept.nonzero().squeeze(1)
    return indices[scores.detach()[indices].argsort(descending=True, stable=True)]


def _run(boxes: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    # The definition's loops end when the data say so: the compiler gets the operator, whatever the backend.
    if torch.compiler.is_compiling() or native_available(boxes.device.type, get_backend()):
        return cast(Tensor, torch.ops.internimage.nms(boxes, groups, iou_threshold, SCHEMA_VERSION))
    return reference.nms(boxes, groups, iou_threshold)


def _check(boxes: Tensor, scores: Tensor, iou_threshold: float, groups: Tensor | None) -> None:
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"nms: boxes must be [K, 4], corners x1, y1, x2, y2, got shape {tuple(boxes.shape)}")
    for name, tensor in (("boxes", boxes), ("scores", scores)):
        if tensor.dtype not in FLOATING:
            raise ValueError(
                f"nms: {name} must be float32, float64, float16 or bfloat16, got {tensor.dtype}; "
                "convert it with .float()"
            )
    if groups is not None and (groups.dtype.is_floating_point or groups.dtype in (torch.bool, torch.complex64)):
        raise ValueError(f"nms: groups must be integers, got {groups.dtype}; convert them with .long()")
    for name, tensor in {"scores": scores, **({} if groups is None else {"groups": groups})}.items():
        if tensor.dim() != 1 or tensor.shape[0] != boxes.shape[0]:
            raise ValueError(
                f"nms: {name} must have one entry for each of the {boxes.shape[0]} boxes, got shape "
                f"{tuple(tensor.shape)}"
            )
        if tensor.device != boxes.device:
            raise ValueError(
                f"nms: all tensors must be on one device, got boxes on {boxes.device} and {name} on {tensor.device}; "
                f"move them with .to({str(boxes.device)!r})"
            )
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"nms: iou_threshold must be from 0 to 1, got {iou_threshold}")


def _define(boxes: Tensor, groups: Tensor, iou_threshold: float, version: int) -> Tensor:
    check_version(version)
    return reference.nms(boxes, groups, iou_threshold)


def _fake(boxes: Tensor, groups: Tensor, iou_threshold: float, version: int) -> Tensor:
    check_version(version)
    return boxes.new_empty(boxes.shape[0], dtype=torch.bool)


torch.library.impl(library, "nms", "CompositeExplicitAutograd")(_define)
torch.library.register_fake("internimage::nms")(_fake)
