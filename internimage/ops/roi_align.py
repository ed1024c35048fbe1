"""RoIAlign: argument checks, and what the FLOP counter must know of it."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from internimage.ops import roi_align_reference as reference
from internimage.ops.geometry import IntPair
from internimage.ops.kernel_operator import FLOATING, FLOPS_PER_SAMPLE, Gradients, KernelOperator
from internimage.ops.roi_align_reference import RoIGrid

_Pair = tuple[Tensor, Tensor]


def roi_align(
    input: Tensor,
    rois: Tensor,
    output_size: IntPair,
    *,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """Means of bilinear samples over the bins of regions of interest (Mask R-CNN, arXiv 1703.06870, section 3).

    A sample beyond the map by at most one pixel takes the nearest pixel, a farther one counts as 0. The gradient goes
    to `input` alone. Coordinates and sums are float32 for the half types, so autocast changes nothing.

    Args:
        input: [N, C, H, W], float32, float64, float16 or bfloat16; channels_last is the quicker layout on a CPU.
        rois: [K, 5], image index and corners x1, y1, x2, y2; float32, or float64 for such an input; other types are
            converted, though halves can't tell pixels beyond 256 or 2048 apart. A RoI whose index is none of 0 to N - 1
            gives 0 at no cost: so a fixed number of RoIs can be padded, or shared out over levels, with index -1.
        output_size: bins, (height, width).
        spatial_scale: from the coordinates of `rois` to pixels of `input`.
        sampling_ratio: samples of a bin along each axis; 0 takes as many as it has pixels, rounded up.
        aligned: pixel centres of `input` lie at half-integers, as they should. Otherwise at integers, and every RoI is
            at least one pixel wide and high.

    Returns:
        [K, C, *output_size], contiguous, dtype and device of `input`.

    Raises:
        ValueError: shapes, dtypes, devices or sizes that do not go together.
        RuntimeError: the backend "native" was asked for and has no kernel for this device.
    """
    grid = RoIGrid(_pair(output_size), float(spatial_scale), sampling_ratio, aligned)
    _check(input, rois, grid)
    rois = rois.detach().to(torch.promote_types(input.dtype, torch.float32))
    return _operator((input, rois), grid)


def _pair(output_size: IntPair) -> tuple[int, int]:
    pair = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if len(pair) != 2 or not all(isinstance(size, int) and size >= 1 for size in pair):
        raise ValueError(
            f"roi_align: output_size must be an int or a pair (height, width) of at least 1, got {output_size!r}"
        )
    return pair


def _check(input: Tensor, rois: Tensor, grid: RoIGrid) -> None:
    if input.dim() != 4 or input.shape[2] < 1 or input.shape[3] < 1:
        raise ValueError(
            f"roi_align: input must be [N, C, H, W] with at least one pixel, got shape {tuple(input.shape)}"
        )
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(
            "roi_align: rois must be [K, 5], image index and corners x1, y1, x2, y2, got shape "
            f"{tuple(rois.shape)}; boxes [K, 4] of one image become RoIs by torch.nn.functional.pad(boxes, (1, 0))"
        )
    for name, tensor in (("input", input), ("rois", rois)):
        if tensor.dtype not in FLOATING:
            raise ValueError(
                f"roi_align: {name} must be float32, float64, float16 or bfloat16, got {tensor.dtype}; "
                "convert it with .float()"
            )
    if rois.device != input.device:
        raise ValueError(
            f"roi_align: both tensors must be on one device, got input on {input.device} and rois on {rois.device}; "
            f"move them with .to({str(input.device)!r})"
        )
    if not isinstance(grid.sampling_ratio, int) or grid.sampling_ratio < 0:
        raise ValueError(
            f"roi_align: sampling_ratio must be an int of at least 0, got {grid.sampling_ratio!r}; 0 takes as many "
            "samples as a bin has pixels"
        )
    if not 0 < grid.spatial_scale < float("inf"):
        raise ValueError(
            f"roi_align: spatial_scale must be a positive number, got {grid.spatial_scale}; for a map of stride 4 it "
            "is 1 / 4"
        )


class _RoIAlign(KernelOperator[_Pair, RoIGrid]):
    def __call__(self, tensors: _Pair, options: RoIGrid) -> Tensor:
        if options.sampling_ratio == 0 and torch.compiler.is_compiling():
            return self.call_registered(tensors, options)  # how many samples the definition takes depends on the data
        return super().__call__(tensors, options)

    def define(self, tensors: _Pair, options: RoIGrid) -> Tensor:
        return reference.roi_align(*tensors, options)

    def define_gradients(self, grad_output: Tensor, tensors: _Pair, options: RoIGrid) -> Gradients:
        return (reference.roi_align_backward(grad_output, *tensors, options),)

    def output_shape(self, tensors: _Pair, options: RoIGrid) -> tuple[int, ...]:
        input, rois = tensors
        return (rois.shape[0], input.shape[1], *options.output_size)


_operator = _RoIAlign("roi_align", RoIGrid, tensors=2, differentiable=1)


@register_flop_formula(torch.ops.internimage.roi_align)
def _roi_align_flops(
    input: Any,
    rois: Any,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    *arguments: Any,
    out_shape: Any = None,
    **_: Any,
) -> int:
    samples = (sampling_ratio or 2) ** 2  # only the data tell how many adaptive sampling takes; 2 x 2 is usual
    return int(rois[0] * input[1] * output_size[0] * output_size[1] * samples * FLOPS_PER_SAMPLE)


@register_flop_formula(torch.ops.internimage.roi_align_backward)
def _roi_align_backward_flops(grad_output: Any, *arguments: Any, out_shape: Any = None, **_: Any) -> int:
    return _roi_align_flops(*arguments)
