"""RoIAlign in plain PyTorch: the definition that every kernel is tested against.

It follows Mask R-CNN (arXiv 1703.06870), section 3, with the conventions that detectors settled on: `aligned` subtracts
half a pixel, so that pixel centres lie at integers; a sample up to one pixel outside the map takes the nearest pixel.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from internimage.ops import bilinear
from internimage.ops.bilinear import Corner


class RoIGrid(NamedTuple):
    """The options of one call, in the order of the operator's arguments."""

    output_size: tuple[int, int]
    spatial_scale: float
    sampling_ratio: int  # 0: as many samples as a bin has pixels, rounded up
    aligned: bool


def roi_align(input: Tensor, rois: Tensor, grid: RoIGrid) -> Tensor:
    """For each RoI and bin, the mean of bilinear samples of the input.

    Shapes as in `internimage.ops.roi_align`. Differentiable by the input as often as autograd allows. Halves compute in
    float32.
    """
    rows = _real(input).permute(0, 2, 3, 1).flatten(0, 2)
    corners, weight = _samples(rois.detach(), input.shape, grid)
    return bilinear.weighted_sum(rows, corners, weight).permute(0, 3, 1, 2).contiguous().to(input.dtype)


def roi_align_backward(grad_output: Tensor, input: Tensor, rois: Tensor, grid: RoIGrid) -> Tensor:
    """The gradient of `roi_align` with respect to the input, written out for use below autograd."""
    n, channels, height, width = input.shape
    grad = _real(grad_output).permute(0, 2, 3, 1).unsqueeze(-2)
    grad_rows = grad.new_zeros(n * height * width, channels)
    corners, weight = _samples(rois, input.shape, grid)
    for corner in corners:
        grad_rows = corner.add_gradient(grad_rows, weight, grad)
    return grad_rows.view(n, height, width, channels).permute(0, 3, 1, 2).contiguous().to(input.dtype)


def _samples(rois: Tensor, input_shape: torch.Size, grid: RoIGrid) -> tuple[Iterator[Corner], Tensor]:
    """The corners of all samples and what each counts, all [K, rows, columns, samples of a bin]."""
    n, _, height, width = input_shape
    x1, y1, x2, y2 = (_real(rois)[:, 1:] * grid.spatial_scale - (0.5 if grid.aligned else 0)).unbind(1)
    y, share_y = _along_axis(y1, y2, grid.output_size[0], height, grid)
    x, share_x = _along_axis(x1, x2, grid.output_size[1], width, grid)
    image = rois[:, 0].trunc()
    in_batch = (image >= 0) & (image < n)  # false for NaN
    first = torch.where(in_batch, image, 0).long().view(-1, 1, 1, 1) * (height * width)
    shape = (y.shape[0], y.shape[1], x.shape[1], y.shape[2], x.shape[2])  # rows and columns of bins, then of samples

    def along_y(values: Tensor) -> Tensor:
        return values[:, :, None, :, None].expand(shape).flatten(-2)

    def along_x(values: Tensor) -> Tensor:
        return values[:, None, :, None, :].expand(shape).flatten(-2)

    corners = bilinear.corners(along_y(y), along_x(x), height, width, lambda pixel: first + pixel)
    weight = torch.where(in_batch.view(-1, 1, 1, 1), along_y(share_y) * along_x(share_x), 0)
    return corners, weight


def _along_axis(begin: Tensor, end: Tensor, bins: int, size: int, grid: RoIGrid) -> tuple[Tensor, Tensor]:
    """Places of the samples in the map, and the share of each in the mean of its bin: [K, bins, samples]."""
    length = end - begin if grid.aligned else (end - begin).clamp(min=1)
    bin_length = (length / bins).view(-1, 1, 1)
    if grid.sampling_ratio:
        count = torch.full_like(bin_length, grid.sampling_ratio)
        most = grid.sampling_ratio
    else:
        count = bin_length.ceil().nan_to_num(0, 0, 0).clamp(min=0)
        most = int(count.max()) if len(count) else 0
    sample = torch.arange(most, device=begin.device)
    number = torch.arange(bins, device=begin.device).view(-1, 1)
    place = begin.view(-1, 1, 1) + number * bin_length + (sample + 0.5) * bin_length / count.clamp(min=1)
    counts = (sample < count) & (place >= -1) & (place <= size)  # false for NaN
    return place.clamp(0, size - 1), counts / count.clamp(min=1)


def _real(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
