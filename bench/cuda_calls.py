"""Calls of the operators with random tensors, as `bench/cuda.py` checks and times them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from internimage.ops import (
    dcnv3,
    ms_deform_attn_reference,
    multi_scale_deformable_attention,
    nms_mask,
    reference,
    roi_align,
    roi_align_reference,
)
from internimage.ops.geometry import Geometry
from internimage.ops.levels import Levels
from internimage.ops.roi_align_reference import RoIGrid


@dataclass(frozen=True)
class Call:
    """One call of an operator.

    Attributes:
        run: the operator, by the backend in force: learned tensors, then fixed ones -> output.
        define: its definition, likewise; None: it loops for as long as the data say, which doesn't compile.
        learned: tensors that get gradients, by name; the first one's are added up by atomic additions.
        fixed: tensors that get none.
        grad_output: of the output; None: nothing is learned.
        exact: dtype that the definition is computed in.
    """

    run: Callable[..., Tensor]
    define: Callable[..., Tensor] | None
    learned: dict[str, Tensor]
    fixed: tuple[Tensor, ...]
    grad_output: Tensor | None
    exact: torch.dtype


Maker = Callable[..., Call]


def dcnv3_call(
    device: torch.device,
    dtype: torch.dtype,
    *,
    n: int = 2,
    size: tuple[int, int] = (13, 11),
    groups: int = 2,
    group_channels: int = 4,
    spread: float = 1.0,
    **options: Any,
) -> Call:
    """Offset and mask are parts of one wider tensor, as a network may give them."""
    settings: dict[str, Any] = {
        "kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": groups,
        "offset_scale": 1.0, "remove_center": False, "softmax": False,
    }  # fmt: skip
    geometry = Geometry(**{**settings, **options})
    draw = _normal(device, dtype)
    rows, columns = geometry.output_size(*size)
    points = groups * geometry.taps
    joined = draw(n, rows, columns, 3 * points + 1)
    offset, mask = joined[..., : 2 * points] * spread, joined[..., 2 * points : 3 * points]
    channels = groups * group_channels
    return Call(
        partial(dcnv3, **geometry._asdict()),
        lambda *tensors: reference.dcnv3(*tensors, geometry),
        {"input": draw(n, *size, channels), "offset": offset, "mask": mask},
        (),
        draw(n, rows, columns, channels),
        torch.float64,
    )


def attention_call(
    device: torch.device,
    dtype: torch.dtype,
    *,
    shapes: tuple[tuple[int, int], ...] = ((7, 9), (4, 5)),
    n: int = 2,
    queries: int = 13,
    heads: int = 2,
    channels: int = 8,
    points: int = 4,
) -> Call:
    """Places around the middle of the maps; some lie outside."""
    draw = _normal(device, dtype)
    places = 0.5 + 0.3 * _normal(device, torch.promote_types(dtype, torch.float32))(
        n, queries, heads, len(shapes), points, 2
    )
    weights = draw(n, queries, heads, len(shapes) * points).softmax(-1).unflatten(-1, (len(shapes), points))
    levels = Levels(tuple(side for shape in shapes for side in shape))
    return Call(
        lambda value, *rest: multi_scale_deformable_attention(value, shapes, *rest),
        lambda *tensors: ms_deform_attn_reference.ms_deform_attn(*tensors, levels),
        {
            "value": draw(n, sum(height * width for height, width in shapes), heads, channels),
            "locations": places,
            "weights": weights,
        },
        (),
        draw(n, queries, heads * channels),
        torch.float64,
    )


def roi_align_call(
    device: torch.device,
    dtype: torch.dtype,
    *,
    n: int = 2,
    channels: int = 5,
    size: tuple[int, int] = (9, 12),
    rois: int = 6,
    largest: float = 0.8,
    **options: Any,
) -> Call:
    """RoIs of up to `largest` times the map's sides, anywhere; each image index from -1, which is no image, on."""
    settings: dict[str, Any] = {"output_size": (3, 4), "spatial_scale": 0.25, "sampling_ratio": 0, "aligned": True}
    grid = RoIGrid(**{**settings, **options})
    draw = _normal(device, dtype)
    real = torch.promote_types(dtype, torch.float32)
    height, width = (side / grid.spatial_scale for side in size)
    corners = _boxes(device, rois, width, height, largest).to(real)
    images = torch.arange(rois, device=device).remainder(n + 1).sub(1).unsqueeze(1)
    return Call(
        partial(roi_align, **grid._asdict()),
        lambda input, rois: roi_align_reference.roi_align(input, rois, grid),
        {"input": draw(n, channels, *size)},
        (torch.cat((images, corners), dim=1),),
        draw(rois, channels, *grid.output_size),
        real,  # with more digits, adaptive sampling may take another number of samples
    )


def nms_call(
    device: torch.device, dtype: torch.dtype, *, count: int = 200, groups: int = 5, iou_threshold: float = 0.7
) -> Call:
    """Proposals of several levels, some of them padding, in an image of 1216 x 800."""
    generator = torch.Generator(device).manual_seed(1)
    levels = torch.randint(-1, groups, (count,), generator=generator, device=device)
    scores = torch.rand(count, generator=generator, device=device).to(dtype)
    return Call(
        lambda boxes, scores, levels: nms_mask(boxes, scores, iou_threshold, groups=levels),
        None,
        {},
        (_boxes(device, count, 1216, 800, 0.25).to(dtype), scores, levels),
        None,
        torch.promote_types(dtype, torch.float32),  # in which ratios are compared with the threshold
    )


def _normal(device: torch.device, dtype: torch.dtype) -> Callable[..., Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    return lambda *shape: torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(dtype)


def _boxes(device: torch.device, count: int, width: float, height: float, largest: float) -> Tensor:
    """Corners x1, y1, x2, y2 [count, 4] of boxes of a hundredth to `largest` of the sides, with centres anywhere."""
    generator = torch.Generator(device).manual_seed(0)
    centres, shares = torch.rand(2, count, 2, generator=generator, device=device)
    sides = torch.tensor([width, height], device=device)
    half = (0.01 + shares * (largest - 0.01)) * sides / 2
    return torch.cat((centres * sides - half, centres * sides + half), dim=1)
