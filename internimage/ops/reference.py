"""DCNv3 in plain PyTorch: the definition that every kernel is tested against, and what runs where there is no kernel.

It follows InternImage (CVPR 2023), Eq. 2, in the layout of the released weights: taps run column by column (x is the
outer loop), offsets hold x before y, and `offset_scale` multiplies the regular grid as well as the learned offset.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from internimage.ops.geometry import Geometry


def dcnv3(input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry) -> Tensor:
    """For each group, the sum over its taps of mask times the bilinear sample of the input.

    Shapes as in `internimage.ops.dcnv3`. Differentiable as often as autograd allows. Halves compute in float32.
    """
    value, offset, mask = (tensor.to(_real(input)) for tensor in (input, offset, mask))
    weight = _tap_weights(mask, geometry)
    output = value.new_zeros(())
    for corner in _corners(offset, geometry, value.shape):
        share = (weight * corner.weight_y * corner.weight_x).unsqueeze(-1)
        output = output + (share * corner.read(value, geometry)).sum(-2)
    return output.flatten(-2).to(input.dtype)


def dcnv3_backward(
    grad_output: Tensor, input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `dcnv3` with respect to input, offset and mask, written out.

    Autograd derives the same from `dcnv3`; this one serves the operator where no kernel is loaded, below autograd.
    """
    value, offset, mask, grad = (tensor.to(_real(input)) for tensor in (input, offset, mask, grad_output))
    weight = _tap_weights(mask, geometry)
    grad = grad.reshape(*weight.shape[:4], 1, grad.shape[-1] // geometry.groups)  # [N, Q, R, G, 1, D]
    grad_rows = _rows(torch.zeros_like(value), geometry)
    grad_weight, grad_y, grad_x = (torch.zeros_like(weight) for _ in range(3))
    for corner in _corners(offset, geometry, value.shape):
        share = torch.where(corner.present, weight * corner.weight_y * corner.weight_x, 0).unsqueeze(-1) * grad
        grad_rows = grad_rows.index_add(0, corner.row.flatten(), share.flatten(0, -2))
        dot = (grad * corner.read(value, geometry)).sum(-1)
        grad_weight = grad_weight + dot * corner.weight_y * corner.weight_x
        grad_y = grad_y + dot * corner.slope_y * corner.weight_x
        grad_x = grad_x + dot * corner.slope_x * corner.weight_y
    grad_offset = torch.stack((grad_x, grad_y), dim=-1) * (geometry.offset_scale * weight).unsqueeze(-1)
    if geometry.softmax:
        grad_weight = weight * (grad_weight - (weight * grad_weight).sum(-1, keepdim=True))
    return (
        grad_rows.view(input.shape).to(input.dtype),
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


class _Corner(NamedTuple):
    """One of the four pixels around every sampling point; each tensor is [N, Q, R, G, K]."""

    row: Tensor  # which row of `_rows` the pixel is, 0 where absent
    present: Tensor  # whether the pixel lies in the image and its sampling point in the open window around it
    weight_y: Tensor
    weight_x: Tensor
    slope_y: int  # derivative of weight_y by the point's y
    slope_x: int

    def read(self, value: Tensor, geometry: Geometry) -> Tensor:
        """[N, Q, R, G, K, D]: the pixel's channels, 0 where absent."""
        pixels = _rows(value, geometry).index_select(0, self.row.flatten())
        return torch.where(self.present.unsqueeze(-1), pixels.reshape(*self.row.shape, pixels.shape[-1]), 0)


def _corners(offset: Tensor, geometry: Geometry, shape: torch.Size) -> Iterator[_Corner]:
    n, height, width, _ = shape
    y, x = sampling_locations(offset, geometry)
    in_window = (y > -1) & (y < height) & (x > -1) & (x < width)  # false for NaN
    y, x = torch.where(in_window, y, 0), torch.where(in_window, x, 0)
    y0, x0 = y.detach().floor(), x.detach().floor()
    image = torch.arange(n, device=offset.device).view(-1, 1, 1, 1, 1)
    group = torch.arange(geometry.groups, device=offset.device).view(-1, 1)
    for step_y in (0, 1):
        for step_x in (0, 1):
            row, column = y0.long() + step_y, x0.long() + step_x
            present = in_window & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index = ((image * height + row) * width + column) * geometry.groups + group
            yield _Corner(
                row=torch.where(present, index, 0),
                present=present,
                weight_y=y - y0 if step_y else 1 - (y - y0),
                weight_x=x - x0 if step_x else 1 - (x - x0),
                slope_y=2 * step_y - 1,
                slope_x=2 * step_x - 1,
            )


def _rows(value: Tensor, geometry: Geometry) -> Tensor:
    """[N * H * W * G, D]: a pixel's channels of one group as a row."""
    return value.reshape(-1, value.shape[-1] // geometry.groups)


def _tap_weights(mask: Tensor, geometry: Geometry) -> Tensor:
    mask = mask.reshape(*mask.shape[:3], geometry.groups, geometry.taps)
    return mask.softmax(-1) if geometry.softmax else mask


def _real(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
