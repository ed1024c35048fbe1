"""Multi-scale deformable attention: argument checks, and what the FLOP counter must know of it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from internimage.ops import ms_deform_attn_reference as reference
from internimage.ops.kernel_operator import FLOATING, FLOPS_PER_SAMPLE, Gradients, KernelOperator, Three, autocasts
from internimage.ops.levels import Levels

_NAME = "multi_scale_deformable_attention"


def multi_scale_deformable_attention(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Each head sums samples of maps of several sizes at given places (Deformable DETR, arXiv 2010.04159, Eq. 3).

    The projections before and after are the caller's. A sample is bilinear, pixels outside a level count as 0: that of
    `grid_sample` with `align_corners=False` at 2 * location - 1. Coordinates and sums are float32 for the half types.
    Under autocast `attention_weights` is brought to the dtype of `value`; locations keep their precision.

    Args:
        value: [N, S, heads, D], the pixels of all levels one after the other, each level row by row; float32,
            float64, float16 or bfloat16.
        spatial_shapes: (height, width) of each level, as ints, so that programs export with dynamic sizes; the
            products sum to S.
        sampling_locations: [N, Q, heads, levels, points, 2], x before y, from 0 to 1 over the level, borders included.
            float32, or float64 for such a value; halves are converted, though they can't tell the pixels of a map of
            some hundred pixels apart. A point at NaN, infinity or anywhere outside its level contributes nothing.
        attention_weights: [N, Q, heads, levels, points], dtype of `value`.

    Returns:
        [N, Q, heads * D], contiguous, dtype and device of `value`.

    Raises:
        ValueError: shapes, dtypes, devices or sizes that do not go together.
        RuntimeError: the backend "native" was asked for and has no kernel for this device.
    """
    levels = _levels(spatial_shapes)
    _check(value, levels, sampling_locations, attention_weights)
    if autocasts(value):
        attention_weights = attention_weights.to(value.dtype)
    if attention_weights.dtype != value.dtype:
        raise ValueError(
            f"{_NAME}: value and attention_weights must have one dtype outside autocast, got {value.dtype} and "
            f"{attention_weights.dtype}; convert one with .to(), or run under torch.autocast"
        )
    sampling_locations = sampling_locations.to(torch.promote_types(value.dtype, torch.float32))
    return _operator((value, sampling_locations, attention_weights), levels)


def _levels(spatial_shapes: Sequence[tuple[int, int]]) -> Levels:
    if isinstance(spatial_shapes, Tensor):
        raise ValueError(
            f"{_NAME}: spatial_shapes must be pairs of ints, got a tensor; take them from the maps as "
            "[tuple(map.shape[-2:]) for map in maps], or convert it with .tolist()"
        )
    shapes = [tuple(shape) for shape in spatial_shapes]
    if not shapes or any(len(shape) != 2 or shape[0] < 1 or shape[1] < 1 for shape in shapes):
        raise ValueError(
            f"{_NAME}: spatial_shapes must hold a pair (height, width) of at least 1 for each level, got {shapes}"
        )
    return Levels(tuple(size for shape in shapes for size in shape))


def _check(value: Tensor, levels: Levels, sampling_locations: Tensor, attention_weights: Tensor) -> None:
    named = {"value": value, "sampling_locations": sampling_locations, "attention_weights": attention_weights}
    for name, axes in (
        ("value", "[N, S, heads, D]"),
        ("sampling_locations", "[N, Q, heads, levels, points, 2]"),
        ("attention_weights", "[N, Q, heads, levels, points]"),
    ):
        tensor = named[name]
        if tensor.dim() != axes.count(",") + 1:
            raise ValueError(f"{_NAME}: {name} must be {axes}, got shape {tuple(tensor.shape)}")
        if tensor.dtype not in FLOATING:
            raise ValueError(
                f"{_NAME}: {name} must be float32, float64, float16 or bfloat16, got {tensor.dtype}; "
                "convert it with .float()"
            )
        if tensor.device != value.device:
            raise ValueError(
                f"{_NAME}: all tensors must be on one device, got value on {value.device} and {name} on "
                f"{tensor.device}; move it with .to({str(value.device)!r})"
            )
    n, pixels, heads, _ = value.shape
    if pixels != levels.pixels:
        raise ValueError(
            f"{_NAME}: value must have as many pixels as its levels together, got {pixels} in shape "
            f"{tuple(value.shape)} and {levels.pixels} in the levels {levels.sizes}; flatten each map [N, C, H, W] by "
            ".flatten(2).transpose(1, 2) and join them in the order of spatial_shapes"
        )
    points, queries = attention_weights.shape[-1], attention_weights.shape[1]
    if points < 1 or heads < 1:
        raise ValueError(f"{_NAME}: there must be at least one head and point, got {heads} heads and {points} points")
    expected = (n, queries, heads, len(levels.sizes), points)
    for name, shape in (("attention_weights", expected), ("sampling_locations", (*expected, 2))):
        if any(got != want for got, want in zip(named[name].shape, shape, strict=True)):
            raise ValueError(
                f"{_NAME}: {name} must have shape {shape} (batch, queries, heads, levels, points"
                f"{', x and y' if len(shape) == 6 else ''}) beside a value of shape {tuple(value.shape)}, "
                f"{len(levels.sizes)} levels and attention_weights of {queries} queries and {points} points; got "
                f"{tuple(named[name].shape)}"
            )


class _MSDeformAttn(KernelOperator[Three, Levels]):
    def define(self, tensors: Three, options: Levels) -> Tensor:
        return reference.ms_deform_attn(*tensors, options)

    def define_gradients(self, grad_output: Tensor, tensors: Three, options: Levels) -> Gradients:
        return reference.ms_deform_attn_backward(grad_output, *tensors, options)

    def output_shape(self, tensors: Three, options: Levels) -> tuple[int, ...]:
        value, locations, _ = tensors
        return (*locations.shape[:2], value.shape[2] * value.shape[3])


_operator = _MSDeformAttn("ms_deform_attn", Levels)


@register_flop_formula(torch.ops.internimage.ms_deform_attn)
def _ms_deform_attn_flops(
    value: Any, locations: Any, weights: Any, *arguments: Any, out_shape: Any = None, **_: Any
) -> int:
    n, queries, heads, levels, points = weights
    return int(n * queries * heads * levels * points * value[3] * FLOPS_PER_SAMPLE)


@register_flop_formula(torch.ops.internimage.ms_deform_attn_backward)
def _ms_deform_attn_backward_flops(grad_output: Any, *arguments: Any, out_shape: Any = None, **_: Any) -> int:
    return 2 * _ms_deform_attn_flops(*arguments)  # the samples once more for weights and locations, and their scatter
