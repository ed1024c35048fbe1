"""DCNv3 in plain PyTorch: the definition that every kernel is tested against, and what runs where there is no kernel.

It follows InternImage (CVPR 2023), Eq. 2, in the layout of the released weights: taps run column by column (x is the
outer loop), offsets hold x before y, and `offset_scale` multiplies the regular grid as well as the learned offset.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from internimage.ops import bilinear
from internimage.ops.bilinear import Corner
from internimage.ops.geometry import Geometry


def dcnv3(input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry) -> Tensor:
    """For each group, the sum over its taps of mask times the bilinear sample of the input.

    Shapes as in `internimage.ops.dcnv3`. Differentiable as often as autograd allows. Halves compute in float32.
    """
    value, offset, mask = (tensor.to(_real(input)) for tensor in (input, offset, mask))
    rows = _rows(value, geometry)
    output = bilinear.weighted_sum(rows, _corners(offset, geometry, value.shape), _tap_weights(mask, geometry))
    return output.flatten(-2).to(input.dtype)


def dcnv3_backward(
    grad_output: Tensor, input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `dcnv3` with respect to input, offset and mask, written out.

    Autograd derives the same from `dcnv3`; this one serves the operator where no kernel is loaded, below autograd.
    """
    value, offset, mask, grad = (tensor.to(_real(input)) for tensor in (input, offset, mask, grad_output))
    weight = _tap_weights(mask, geometry)
    grad = grad.reshape(*weight.shape[:4], grad.shape[-1] // geometry.groups)  # [N, Q, R, G, D]
    corners = _corners(offset, geometry, value.shape)
    grads = bilinear.weighted_sum_gradients(grad, _rows(value, geometry), corners, weight)
    grad_offset = torch.stack((grads.x, grads.y), dim=-1) * geometry.offset_scale
    grad_weight = grads.weight
    if geometry.softmax:
        grad_weight = weight * (grad_weight - (weight * grad_weight).sum(-1, keepdim=True))
    return (
        grads.rows.view(input.shape).to(input.dtype),
        grad_offset.flatten(-3).to(input.dtype),
        grad_weight.flatten(-2).to(input.dtype),
    )


def sampling_locations(offset: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Where each tap samples the input, in pixels; integers are pixel centres.

    Args:
        offset: [N, Q, R, groups * K * 2], x before y, in pixels before `offset_scale`.
        geometry: the sizes of the operator.

    Returns:
        y and x, each [N, Q, R, groups, K].
    """
    (kernel_h, kernel_w), (dilation_h, dilation_w) = geometry.kernel_size, geometry.dilation
    tap = torch.arange(geometry.taps, device=offset.device)
    if geometry.remove_center:
        tap = tap + (tap >= kernel_w // 2 * kernel_h + kernel_h // 2)
    # Floor: with an even kernel the grid is one-sided.
    anchor_y, anchor_x = dilation_h * (kernel_h - 1) // 2, dilation_w * (kernel_w - 1) // 2
    tap_y = tap % kernel_h * dilation_h - anchor_y
    tap_x = tap // kernel_h * dilation_w - anchor_x
    rows = torch.arange(offset.shape[1], device=offset.device) * geometry.stride[0] + anchor_y - geometry.padding[0]
    columns = torch.arange(offset.shape[2], device=offset.device) * geometry.stride[1] + anchor_x - geometry.padding[1]
    delta_x, delta_y = offset.reshape(*offset.shape[:3], geometry.groups, geometry.taps, 2).unbind(-1)
    y = rows.view(-1, 1, 1, 1) + geometry.offset_scale * (tap_y + delta_y)
    x = columns.view(-1, 1, 1) + geometry.offset_scale * (tap_x + delta_x)
    return y, x


def _corners(offset: Tensor, geometry: Geometry, shape: torch.Size) -> Iterator[Corner]:
    n, height, width, _ = shape
    image = torch.arange(n, device=offset.device).view(-1, 1, 1, 1, 1)
    group = torch.arange(geometry.groups, device=offset.device).view(-1, 1)
    y, x = sampling_locations(offset, geometry)
    return bilinear.corners(
        y, x, height, width, lambda pixel: (image * (height * width) + pixel) * geometry.groups + group
    )


def _rows(value: Tensor, geometry: Geometry) -> Tensor:
    """[N * H * W * G, D]: a pixel's channels of one group as a row."""
    return value.reshape(-1, value.shape[-1] // geometry.groups)


def _tap_weights(mask: Tensor, geometry: Geometry) -> Tensor:
    mask = mask.reshape(*mask.shape[:3], geometry.groups, geometry.taps)
    return mask.softmax(-1) if geometry.softmax else mask


def _real(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
