"""Weighted bilinear samples of rows of channels in plain PyTorch: what the definitions of the operators are made of.

A pixel outside the map counts as 0; a point that is not strictly inside (-1, height) x (-1, width), and NaN is not,
contributes nothing. At integral coordinates the derivative is the one to the right.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Corner(NamedTuple):
    """One of the four pixels around every sampling point; each tensor is [..., K]."""

    row: Tensor  # which row of the channels the pixel is; any where absent
    present: Tensor  # whether the pixel lies in the map and its sampling point in the open window around it
    weight_y: Tensor
    weight_x: Tensor
    slope_y: int  # derivative of weight_y by the point's y
    slope_x: int

    def read(self, rows: Tensor) -> Tensor:
        """[..., K, D]: the pixel's channels, 0 where absent."""
        pixels = rows.index_select(0, self.row.flatten())
        return torch.where(self.present.unsqueeze(-1), pixels.reshape(*self.row.shape, pixels.shape[-1]), 0)

    def add_gradient(self, grad_rows: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
        """`grad_rows` and what samples of `weight` [..., K] add to them, given their gradient [..., 1 or K, D]."""
        share = torch.where(self.present, weight * self.weight_y * self.weight_x, 0).unsqueeze(-1) * grad
        return grad_rows.index_add(0, self.row.flatten(), share.flatten(0, -2))


def corners(y: Tensor, x: Tensor, height: int, width: int, row_of: Callable[[Tensor], Tensor]) -> Iterator[Corner]:
    """The four corners of the points (y, x), in pixels with integers at pixel centres; differentiable by them.

    Args:
        y, x: [..., K].
        height, width: of the map.
        row_of: gives the rows of the map's pixels from their numbers, row by row of the map, [..., K].
    """
    in_window = (y > -1) & (y < height) & (x > -1) & (x < width)  # false for NaN
    y, x = torch.where(in_window, y, 0), torch.where(in_window, x, 0)
    y0, x0 = y.detach().floor(), x.detach().floor()
    for step_y in (0, 1):
        for step_x in (0, 1):
            row, column = y0.long() + step_y, x0.long() + step_x
            present = in_window & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            yield Corner(
                row=row_of(torch.where(present, row * width + column, 0)),
                present=present,
                weight_y=y - y0 if step_y else 1 - (y - y0),
                weight_x=x - x0 if step_x else 1 - (x - x0),
                slope_y=2 * step_y - 1,
                slope_x=2 * step_x - 1,
            )


def weighted_sum(rows: Tensor, corners: Iterable[Corner], weight: Tensor) -> Tensor:
    """[..., D]: the sum over K points of `weight` [..., K] times the sample of `rows` [R, D]."""
    output = rows.new_zeros(())
    for corner in corners:
        share = (weight * corner.weight_y * corner.weight_x).unsqueeze(-1)
        output = output + (share * corner.read(rows)).sum(-2)
    return output


class SumGradients(NamedTuple):
    """Derivatives of `weighted_sum`, each of the shape of what it belongs to."""

    rows: Tensor
    weight: Tensor
    y: Tensor
    x: Tensor


def weighted_sum_gradients(
    grad_output: Tensor, rows: Tensor, corners: Iterable[Corner], weight: Tensor
) -> SumGradients:
    """The derivatives of `weighted_sum`, written out for use below autograd."""
    grad = grad_output.unsqueeze(-2)
    grad_rows = rows.new_zeros(rows.shape)  # contiguous, unlike zeros_like
    grad_weight, grad_y, grad_x = (torch.zeros_like(weight) for _ in range(3))
    for corner in corners:
        grad_rows = corner.add_gradient(grad_rows, weight, grad)
        dot = (grad * corner.read(rows)).sum(-1)
        grad_weight = grad_weight + dot * corner.weight_y * corner.weight_x
        grad_y = grad_y + dot * corner.slope_y * corner.weight_x
        grad_x = grad_x + dot * corner.slope_x * corner.weight_y
    return SumGradients(grad_rows, grad_weight, grad_y * weight, grad_x * weight)
