"""Layers of InternImage fused with what surrounds them, for inference in float32 on a CPU.

Each is an operator with a C++ kernel and the definition in PyTorch below. Maps are [N, H, W, C]; `norm` stands for the
weight and the bias of a LayerNorm, stacked to [2, C]. There are no gradients.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from internimage.ops.backend import get_backend
from internimage.ops.build import native_available
from internimage.ops.schema import SCHEMA_VERSION, check_version, library

_PANEL = 16  # kPanel of csrc/panels.h


def pack(weight: Tensor) -> Tensor:
    """The weight of a linear layer or convolution as the kernels read it: panels of 16 outputs.

    Args:
        weight: [outputs, inputs] or [outputs, inputs, kernel, kernel].

    Returns:
        [ceil(outputs / 16), kernel² * inputs, 16], tap by tap; outputs that do not exist are 0.
    """
    rows = weight.permute(0, 2, 3, 1).flatten(1) if weight.ndim == 4 else weight
    padded = F.pad(rows, (0, 0, 0, -rows.shape[0] % _PANEL))
    return padded.view(-1, _PANEL, padded.shape[1]).transpose(1, 2).contiguous()


def _unpack(packed: Tensor, outputs: int) -> Tensor:
    return packed.transpose(1, 2).flatten(0, 1)[:outputs]


def fused_convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    norm: Tensor | None = None,
    residual: Tensor | None = None,
    kernel_size: int = 1,
    stride: int = 1,
    gelu: bool = False,
    eps: float = 0.0,
) -> Tensor:
    """Convolution with padding kernel_size // 2, then norm, GELU, and the sum with a residual, each where asked for.

    Args:
        input: [N, H, W, C].
        weight: from `pack`.
        bias: [outputs].
        norm: [2, outputs].
        residual: of the output's shape.
        eps: of the norm.

    Returns:
        [N, Q, R, outputs], contiguous.
    """
    arguments = (input, weight, bias, norm, residual, kernel_size, stride, gelu, eps)
    return _call(torch.ops.internimage.fused_convolution.default, _convolution, *arguments)


def fused_mlp(
    input: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    *,
    input_norm: Tensor | None = None,
    output_norm: Tensor | None = None,
    eps: float,
) -> Tensor:
    """The residual branch of an MLP with its norms, and the sum: x + norm(fc2(gelu(fc1(norm(x))))).

    Args:
        input: [N, H, W, C].
        weight1, weight2: from `pack`.
        bias1, bias2: [hidden] and [C].
        input_norm, output_norm: [2, C].

    Returns:
        [N, H, W, C], contiguous.
    """
    arguments = (input, weight1, bias1, weight2, bias2, input_norm, output_norm, eps)
    return _call(torch.ops.internimage.fused_mlp.default, _mlp, *arguments)


def fused_depthwise(
    input: Tensor, weight: Tensor, bias: Tensor, norm: Tensor, *, kernel_size: int, eps: float
) -> Tensor:
    """gelu(norm(convolution(x))) with a depthwise convolution that keeps the size.

    Args:
        input: [N, H, W, C].
        weight: [kernel_size², C].
        bias: [C].
        norm: [2, C].

    Returns:
        [N, H, W, C], contiguous.
    """
    arguments = (input, weight, bias, norm, kernel_size, eps)
    return _call(torch.ops.internimage.fused_depthwise.default, _depthwise, *arguments)


def _call(operator: Any, definition: Callable[..., Tensor], input: Tensor, *arguments: Any) -> Tensor:
    if torch.is_grad_enabled() and input.requires_grad:
        raise RuntimeError(
            "internimage: the fused layers are for inference and have no gradients; run them under torch.no_grad(), or "
            "take the model that was given to prepare_for_inference"
        )
    if not native_available(input.device.type, get_backend()):
        return definition(input, *arguments)
    if torch.compiler.is_compiling():
        return cast(Tensor, operator(input, *arguments, SCHEMA_VERSION))
    if torch._C._are_functorch_transforms_active():
        return definition(input, *arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return cast(Tensor, operator(input, *arguments, SCHEMA_VERSION))


def _normalised(x: Tensor, norm: Tensor | None, eps: float) -> Tensor:
    return x if norm is None else F.layer_norm(x, x.shape[-1:], norm[0], norm[1], eps)


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm: Tensor | None,
    residual: Tensor | None,
    kernel_size: int,
    stride: int,
    gelu: bool,
    eps: float,
) -> Tensor:
    taps = _unpack(weight, bias.shape[0]).view(-1, kernel_size, kernel_size, input.shape[3]).permute(0, 3, 1, 2)
    x = F.conv2d(input.permute(0, 3, 1, 2), taps, bias, stride, padding=kernel_size // 2).permute(0, 2, 3, 1)
    x = _normalised(x, norm, eps)
    x = F.gelu(x) if gelu else x
    return x if residual is None else x + residual


def _mlp(
    input: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    input_norm: Tensor | None,
    output_norm: Tensor | None,
    eps: float,
) -> Tensor:
    hidden = F.linear(_normalised(input, input_norm, eps), _unpack(weight1, bias1.shape[0]), bias1)
    x = F.linear(F.gelu(hidden), _unpack(weight2, bias2.shape[0]), bias2)
    return input + _normalised(x, output_norm, eps)


def _depthwise(input: Tensor, weight: Tensor, bias: Tensor, norm: Tensor, kernel_size: int, eps: float) -> Tensor:
    taps = weight.t().reshape(-1, 1, kernel_size, kernel_size)
    x = F.conv2d(input.permute(0, 3, 1, 2), taps, bias, padding=kernel_size // 2, groups=input.shape[3])
    return F.gelu(_normalised(x.permute(0, 2, 3, 1), norm, eps))


def _register(name: str, definition: Callable[..., Tensor], shape: Callable[..., tuple[Any, ...]]) -> None:
    """Declare an operator's definition, the fallback where there is no kernel, and the shape of its result."""

    def run(*arguments: Any) -> Tensor:
        *inputs, version = arguments
        check_version(version)
        return definition(*inputs).contiguous()

    def fake(input: Tensor, *arguments: Any) -> Tensor:
        return input.new_empty(shape(input, *arguments))

    torch.library.impl(library, name, "CompositeExplicitAutograd")(run)
    torch.library.register_fake(f"internimage::{name}")(fake)


def _convolution_shape(input: Tensor, weight: Tensor, bias: Tensor, *arguments: Any) -> tuple[Any, ...]:
    stride = arguments[3]
    n, height, width, _ = input.shape
    return n, (height - 1) // stride + 1, (width - 1) // stride + 1, bias.shape[0]


_register("fused_convolution", _convolution, _convolution_shape)
_register("fused_mlp", _mlp, lambda input, *_: input.shape)
_register("fused_depthwise", _depthwise, lambda input, *_: input.shape)


def _pixels(shape: Any) -> int:
    return int(shape[0] * shape[1] * shape[2])


@register_flop_formula(torch.ops.internimage.fused_convolution)
def _convolution_flops(input: Any, weight: Any, bias: Any, *arguments: Any, out_shape: Any = None, **_: Any) -> int:
    return 2 * _pixels(out_shape) * int(weight[1] * bias[0])


@register_flop_formula(torch.ops.internimage.fused_mlp)
def _mlp_flops(input: Any, weight1: Any, bias1: Any, *arguments: Any, out_shape: Any = None, **_: Any) -> int:
    return 4 * _pixels(input) * int(input[3] * bias1[0])


@register_flop_formula(torch.ops.internimage.fused_depthwise)
def _depthwise_flops(input: Any, weight: Any, *arguments: Any, out_shape: Any = None, **_: Any) -> int:
    return 2 * _pixels(input) * int(weight[0] * input[3])
