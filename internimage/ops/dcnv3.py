"""The DCNv3 operator: argument checks, and what the FLOP counter must know of it."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from internimage.ops import reference
from internimage.ops.geometry import Geometry, IntPair
from internimage.ops.kernel_operator import FLOATING, FLOPS_PER_SAMPLE, Gradients, KernelOperator, Three, autocasts


def dcnv3(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel_size: IntPair = 3,
    stride: IntPair = 1,
    padding: IntPair = 1,
    dilation: IntPair = 1,
    groups: int = 4,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    softmax: bool = False,
) -> Tensor:
    """Deformable convolution v3: each group sums K samples at learned places (InternImage, CVPR 2023, Eq. 2).

    There are no weights inside. Pairs are (height, width). Taps run column by column: x is the outer loop. A sample is
    bilinear, pixels outside the image count as 0. Under autocast the tensors are brought to the widest of their dtypes,
    as for `grid_sample`; coordinates and sums are float32 for the half types in any case.

    Args:
        input: [N, H, W, C], what is sampled; float32, float64, float16 or bfloat16.
        offset: [N, Q, R, groups * K * 2], x before y, in pixels before `offset_scale`; K = height x width of the
            kernel, one less with `remove_center`; Q x R is the size that a convolution's output would have.
            A point at NaN, infinity or anywhere outside the image contributes nothing.
        mask: [N, Q, R, groups * K], the samples' weights; with `softmax`, their logits.
        offset_scale: multiplies the regular grid and the learned offsets alike.
        remove_center: leave the centre tap out.
        softmax: normalise `mask` over the taps of each group.

    Returns:
        [N, Q, R, C], contiguous, dtype and device of `input`.

    Raises:
        ValueError: shapes, dtypes, devices or sizes that do not go together.
        RuntimeError: the backend "native" was asked for and has no kernel for this device.
    """
    geometry = Geometry(
        _pair(kernel_size, "kernel_size", 1),
        _pair(stride, "stride", 1),
        _pair(padding, "padding", 0),
        _pair(dilation, "dilation", 1),
        groups,
        float(offset_scale),
        remove_center,
        softmax,
    )
    _check(input, offset, mask, geometry)
    if autocasts(input):
        widest = torch.promote_types(torch.promote_types(input.dtype, offset.dtype), mask.dtype)
        input, offset, mask = input.to(widest), offset.to(widest), mask.to(widest)
    _check_dtypes(input, offset, mask)

    return _operator((input, offset, mask), geometry)


def _pair(value: IntPair, name: str, least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(size, int) and size >= least for size in pair):
        raise ValueError(f"dcnv3: {name} must be an int or a pair (height, width) of at least {least}, got {value!r}")
    return pair


def _check(input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry) -> None:
    for name, tensor in (("input", input), ("offset", offset), ("mask", mask)):
        if tensor.dim() != 4:
            raise ValueError(
                f"dcnv3: {name} must have 4 dimensions, channels last, got shape {tuple(tensor.shape)}; "
                "an image batch [N, C, H, W] becomes [N, H, W, C] by .permute(0, 2, 3, 1)"
            )
        if tensor.dtype not in FLOATING:
            raise ValueError(
                f"dcnv3: {name} must be float32, float64, float16 or bfloat16, got {tensor.dtype}; "
                "convert it with .float()"
            )
        if tensor.device != input.device:
            raise ValueError(
                f"dcnv3: input, offset and mask must be on one device, got input on {input.device} and {name} on "
                f"{tensor.device}; move it with .to({str(input.device)!r})"
            )
    n, height, width, channels = input.shape
    groups = geometry.groups
    if groups < 1 or channels % groups:
        divisors = [d for d in range(1, channels + 1) if channels % d == 0]
        raise ValueError(
            f"dcnv3: groups must divide the channels of input, got {channels} channels and {groups} groups; "
            f"nearest that fits: groups={min(divisors, key=lambda d: abs(d - groups), default=1)}"
        )
    if geometry.taps < 1:
        raise ValueError(
            f"dcnv3: remove_center leaves no tap of a kernel of {geometry.kernel_size}; use a larger kernel"
        )
    if geometry.remove_center and not (geometry.kernel_size[0] % 2 and geometry.kernel_size[1] % 2):
        raise ValueError(
            f"dcnv3: remove_center needs a kernel with a centre, got the even size "
            f"{geometry.kernel_size}; use odd sizes"
        )
    rows, columns = geometry.output_size(height, width)
    if rows < 1 or columns < 1:
        raise ValueError(
            f"dcnv3: the kernel does not fit: an input of {height} x {width} pixels gives an output of {rows} x "
            f"{columns}; raise padding (got {geometry.padding}) or lower kernel_size and dilation"
        )
    for name, tensor, per_group in (("offset", offset, 2 * geometry.taps), ("mask", mask, geometry.taps)):
        expected = (n, rows, columns, groups * per_group)
        if any(got != want for got, want in zip(tensor.shape, expected, strict=True)):
            raise ValueError(
                f"dcnv3: {name} must have shape {expected} (batch, output rows, output columns, groups x {per_group}) "
                f"for an input of shape {tuple(input.shape)} with groups={groups} and kernel_size="
                f"{geometry.kernel_size}, stride={geometry.stride}, padding={geometry.padding}, dilation="
                f"{geometry.dilation}, remove_center={geometry.remove_center}; got {tuple(tensor.shape)}"
            )


def _check_dtypes(input: Tensor, offset: Tensor, mask: Tensor) -> None:
    if not input.dtype == offset.dtype == mask.dtype:
        raise ValueError(
            "dcnv3: input, offset and mask must have one dtype outside autocast, got "
            f"{input.dtype}, {offset.dtype} and {mask.dtype}; convert them with .to(), or run under torch.autocast"
        )


class _DCNv3(KernelOperator[Three, Geometry]):
    def define(self, tensors: Three, options: Geometry) -> Tensor:
        return reference.dcnv3(*tensors, options)

    def define_gradients(self, grad_output: Tensor, tensors: Three, options: Geometry) -> Gradients:
        return reference.dcnv3_backward(grad_output, *tensors, options)

    def output_shape(self, tensors: Three, options: Geometry) -> tuple[int, ...]:
        input, offset, _ = tensors
        return (*offset.shape[:3], input.shape[3])


_operator = _DCNv3("dcnv3", Geometry)


@register_flop_formula(torch.ops.internimage.dcnv3)
def _dcnv3_flops(input: Any, offset: Any, mask: Any, *arguments: Any, out_shape: Any = None, **_: Any) -> int:
    n, rows, columns, group_taps = mask
    groups = arguments[4]
    return int(n * rows * columns * (group_taps // groups) * input[3] * FLOPS_PER_SAMPLE)


@register_flop_formula(torch.ops.internimage.dcnv3_backward)
def _dcnv3_backward_flops(grad_output: Any, *arguments: Any, out_shape: Any = None, **_: Any) -> int:
    return 2 * _dcnv3_flops(*arguments)  # the samples once more for mask and offset, and their scatter
