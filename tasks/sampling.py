"""Where the deformable convolutions of a model look: their sampling points, in pixels of the input image."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from internimage import InternImage
from internimage.layers import DCNv3


@dataclass(frozen=True)
class SamplingPoints:
    """The taps of one output location of one DCNv3 layer. Positions are (x, y) in pixels of the input image."""

    title: str
    location: tuple[float, float]  # the output location itself
    grid: NDArray[np.float64]  # [K, 2], where a plain convolution of this kernel would sample
    points: NDArray[np.float64]  # [groups, K, 2], where this layer samples
    weights: NDArray[np.float64]  # [groups, K], modulation; a group's sum is 1


@torch.no_grad()
def trace_sampling(model: InternImage, image: Tensor, x: float, y: float) -> list[SamplingPoints]:
    """Follow an image through the last layer of each stage, at the output location nearest to a pixel.

    Args:
        model: is left in the mode (training or not) that it is in; evaluation is what makes sense.
        image: [in_chans, H, W], prepared for the model.
        x: the pixel's column.
        y: its row.
    """
    layers = [[part for part in stage.modules() if isinstance(part, DCNv3)][-1] for stage in model.stages]
    captured: dict[nn.Module, Tensor] = {}

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        captured[layer] = output[0].double().cpu()

    hooks = [part.register_forward_hook(keep) for layer in layers for part in (layer.offset, layer.mask)]
    try:
        model.forward_features(image[None])
    finally:
        for hook in hooks:
            hook.remove()
    reductions = model.feature_info.reduction()
    return [
        _points_at(f"stage {i + 1}", layer, captured[layer.offset], captured[layer.mask], reduction, x, y)
        for i, (layer, reduction) in enumerate(zip(layers, reductions, strict=True))
    ]


def _points_at(
    title: str, layer: DCNv3, offset: Tensor, logits: Tensor, reduction: int, x: float, y: float
) -> SamplingPoints:
    """See `internimage.ops.dcnv3` for the order of the channels and the positions."""
    rows, columns = offset.shape[:2]
    # Convolutions of kernel 3, stride 2 and padding 1 lead here: output i of each is centred on input 2 i.
    row = min(round(y / reduction), rows - 1)
    column = min(round(x / reduction), columns - 1)
    steps = torch.arange(layer.KERNEL_SIZE, dtype=torch.float64) - layer.KERNEL_SIZE // 2
    kernel = torch.cartesian_prod(steps, steps)  # (x, y), x being the outer loop
    if layer.remove_center:
        kernel = kernel[(kernel != 0).any(1)]
    here = torch.tensor([column, row], dtype=torch.float64)
    offsets = offset[row, column].view(layer.groups, -1, 2)
    points = here + layer.offset_scale * (kernel + offsets)
    return SamplingPoints(
        title=f"{title}: stride {reduction}, {layer.groups} group{'s' if layer.groups > 1 else ''}",
        location=(float(here[0] * reduction), float(here[1] * reduction)),
        grid=((here + kernel) * reduction).numpy(),
        points=(points * reduction).numpy(),
        weights=logits[row, column].view(layer.groups, -1).softmax(-1).numpy(),
    )
