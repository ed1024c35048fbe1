"""Multi-scale deformable attention in plain PyTorch: the definition that every kernel is tested against.

It follows Deformable DETR (arXiv 2010.04159), Eq. 3, without the projections: a location runs from 0 to 1 over its
level, borders included, so that the centre of pixel i of n lies at (i + 1/2) / n.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from internimage.ops import bilinear
from internimage.ops.bilinear import Corner
from internimage.ops.levels import Levels


def ms_deform_attn(value: Tensor, sampling_locations: Tensor, attention_weights: Tensor, levels: Levels) -> Tensor:
    """For each head, the sum over all points of all levels of weight times the bilinear sample of the value.

    Shapes as in `internimage.ops.multi_scale_deformable_attention`. Differentiable as often as autograd allows. Halves
    compute in float32.
    """
    rows, locations, weights = _real(value).flatten(0, 2), _real(sampling_locations), _real(attention_weights)
    output = rows.new_zeros(())
    for level, corners in enumerate(_corners(locations, value.shape, levels)):
        output = output + bilinear.weighted_sum(rows, corners, weights[:, :, :, level])
    return output.flatten(-2).to(value.dtype)


def ms_deform_attn_backward(
    grad_output: Tensor, value: Tensor, sampling_locations: Tensor, attention_weights: Tensor, levels: Levels
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `ms_deform_attn` with respect to value, locations and weights, written out.

    Autograd derives the same from `ms_deform_attn`; this one serves the operator where no kernel is loaded, below
    autograd.
    """
    rows, locations, weights = _real(value).flatten(0, 2), _real(sampling_locations), _real(attention_weights)
    grad = _real(grad_output).reshape(*grad_output.shape[:2], *value.shape[2:])
    grad_rows = rows.new_zeros(rows.shape)
    grad_locations, grad_weights = [], []
    for level, corners in enumerate(_corners(locations, value.shape, levels)):
        height, width = levels.sizes[level]
        grads = bilinear.weighted_sum_gradients(grad, rows, corners, weights[:, :, :, level])
        grad_rows = grad_rows + grads.rows
        grad_locations.append(torch.stack((grads.x * width, grads.y * height), dim=-1))
        grad_weights.append(grads.weight)
    return (
        grad_rows.view(value.shape).to(value.dtype),
        torch.stack(grad_locations, dim=3).to(sampling_locations.dtype),
        torch.stack(grad_weights, dim=3).to(attention_weights.dtype),
    )


def _corners(locations: Tensor, shape: torch.Size, levels: Levels) -> Iterator[Iterator[Corner]]:
    """For each level its corners, whose tensors are [N, Q, heads, points]; each to be used up before the next."""
    n, pixels, heads, _ = shape
    image = torch.arange(n, device=locations.device).view(-1, 1, 1, 1)
    head = torch.arange(heads, device=locations.device).view(-1, 1)
    first = 0

    def row_of(pixel: Tensor) -> Tensor:
        return (image * pixels + first + pixel) * heads + head

    for level, (height, width) in enumerate(levels.sizes):
        x, y = locations[:, :, :, level].unbind(-1)
        yield bilinear.corners(y * height - 0.5, x * width - 0.5, height, width, row_of)
        first = first + height * width


def _real(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
