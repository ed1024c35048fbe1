"""The DCNv3 operator: argument checks, and what autograd, the compiler and the FLOP counter must know of it."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from internimage.ops import reference
from internimage.ops.backend import get_backend
from internimage.ops.build import native_available
from internimage.ops.geometry import Geometry, IntPair
from internimage.ops.schema import SCHEMA_VERSION, SCHEMAS, check_version

_FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


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
    if torch.is_autocast_enabled(input.device.type):
        widest = torch.promote_types(torch.promote_types(input.dtype, offset.dtype), mask.dtype)
        input, offset, mask = input.to(widest), offset.to(widest), mask.to(widest)
    _check_dtypes(input, offset, mask)

    if not native_available(input.device.type, get_backend()):
        return reference.dcnv3(input, offset, mask, geometry)
    if torch.compiler.is_compiling():
        return cast(Tensor, torch.ops.internimage.dcnv3(input, offset, mask, *geometry, SCHEMA_VERSION))
    if torch._C._are_functorch_transforms_active():
        return reference.dcnv3(input, offset, mask, geometry)
    if torch.is_grad_enabled() and (input.requires_grad or offset.requires_grad or mask.requires_grad):
        return cast(Tensor, _DCNv3.apply(input, offset, mask, geometry))  # type: ignore[no-untyped-call]
    return _forward(input, offset, mask, geometry)


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
        if tensor.dtype not in _FLOATING:
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


def _forward(input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry) -> Tensor:
    with torch._C._AutoDispatchBelowAutograd():
        operator = torch.ops.internimage.dcnv3.default
        return cast(Tensor, operator(input, offset, mask, *geometry, SCHEMA_VERSION))


def _backward(grad_output: Tensor, tensors: tuple[Tensor, ...], geometry: Geometry) -> tuple[Tensor, ...]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    operator = torch.ops.internimage.dcnv3_backward.default
    return cast(tuple[Tensor, ...], operator(grad_output, *tensors, *geometry, deterministic, SCHEMA_VERSION))


# A call through the registered autograd formula costs 90 microseconds more than through this class. Compiled code goes
# by the registered one: an autograd.Function in a compiled region would bypass the compiler's cache.
class _DCNv3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(input, offset, mask)
        ctx.geometry = geometry
        return _forward(input, offset, mask, geometry)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: derivatives of this backward are wanted
            input, offset, mask = tensors
            output = reference.dcnv3(input, offset, mask, ctx.geometry)
            wanted = [tensor for tensor in tensors if tensor.requires_grad]
            found = iter(torch.autograd.grad(output, wanted, grad_output, create_graph=True))
            return *(next(found) if tensor.requires_grad else None for tensor in tensors), None
        with torch._C._AutoDispatchBelowAutograd():
            return *_backward(grad_output, tensors, ctx.geometry), None


library = torch.library.Library("internimage", "FRAGMENT")  # type: ignore[no-untyped-call]
for _schema in SCHEMAS.values():
    library.define(_schema)  # type: ignore[no-untyped-call]


@torch.library.impl(library, "dcnv3", "CompositeExplicitAutograd")
def _dcnv3(input: Tensor, offset: Tensor, mask: Tensor, *arguments: Any) -> Tensor:
    return reference.dcnv3(input, offset, mask, _geometry(*arguments)).contiguous()


@torch.library.impl(library, "dcnv3_backward", "CompositeExplicitAutograd")
def _dcnv3_backward(
    grad_output: Tensor, input: Tensor, offset: Tensor, mask: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *geometry, _deterministic, version = arguments
    return reference.dcnv3_backward(grad_output, input, offset, mask, _geometry(*geometry, version))


def _geometry(*arguments: Any) -> Geometry:
    *geometry, version = arguments
    check_version(version)
    return Geometry(*geometry)


@torch.library.register_fake("internimage::dcnv3")  # type: ignore[untyped-decorator]
def _dcnv3_fake(input: Tensor, offset: Tensor, mask: Tensor, *arguments: Any) -> Tensor:
    return input.new_empty((*offset.shape[:3], input.shape[3]))


@torch.library.register_fake("internimage::dcnv3_backward")  # type: ignore[untyped-decorator]
def _dcnv3_backward_fake(
    grad_output: Tensor, input: Tensor, offset: Tensor, mask: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return input.new_empty(input.shape), offset.new_empty(offset.shape), mask.new_empty(mask.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.arguments = inputs[3:]


def _registered_backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    grads = _backward(grad_output, ctx.saved_tensors, _geometry(*ctx.arguments))
    return *grads, *(None for _ in ctx.arguments)


torch.library.register_autograd("internimage::dcnv3", _registered_backward, setup_context=_setup_context)


# Per tap and channel: four corners and the mask, a multiplication and an addition each, as the paper counts.
_FLOPS_PER_TAP = 10


@register_flop_formula(torch.ops.internimage.dcnv3)
def _dcnv3_flops(input: Any, offset: Any, mask: Any, *arguments: Any, out_shape: Any = None, **_: Any) -> int:
    n, rows, columns, group_taps = mask
    groups = arguments[4]
    return int(n * rows * columns * (group_taps // groups) * input[3] * _FLOPS_PER_TAP)


@register_flop_formula(torch.ops.internimage.dcnv3_backward)
def _dcnv3_backward_flops(grad_output: Any, *arguments: Any, out_shape: Any = None, **_: Any) -> int:
    return 2 * _dcnv3_flops(*arguments)  # the samples once more for mask and offset, and their scatter
