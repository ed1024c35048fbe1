"""The model as it is deployed: pictures in any form of pixels in front, any precision inside, float32 behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from internimage.models import IMAGENET_MEAN, IMAGENET_STD

Pixels = Literal["normalised", "uint8", "0-255", "0-1"]
Precision = Literal["float32", "bfloat16", "float16"]


class PixelForm(NamedTuple):
    """How an image holds RGB: its type, and what is white; None: the mean is subtracted already, and so on."""

    dtype: torch.dtype
    white: float | None


PIXELS: dict[Pixels, PixelForm] = {
    "normalised": PixelForm(torch.float32, None),
    "uint8": PixelForm(torch.uint8, 255.0),
    "0-255": PixelForm(torch.float32, 255.0),
    "0-1": PixelForm(torch.float32, 1.0),
}
# Greatest difference of the outputs from those of the eager model in the same precision, relative to their largest
# value.
TOLERANCES: dict[Precision | Literal["int8"], float] = {
    "float32": 1e-3,
    "bfloat16": 0.2,
    "float16": 0.05,
    "int8": 0.2,  # from the quantised graph, whose rounding falls elsewhere
}


class Deployed(nn.Module):
    """A model between pixels and float32. It computes in place of the given one, whose precision changes.

    Shapes: image [N, C, H, W], in the form of `pixels` -> the model's outputs, as a tuple.

    Args:
        model: image [N, C, H, W], normalised -> a tensor or several.
        pixels: the form of the image: normalised by the caller; or RGB, as bytes, or as floats up to 255 or to 1, which
            is normalised inside.
        precision: that the model computes in.
        mean: of the channels, in [0, 1].
        std: the same, standard deviation.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        pixels: Pixels = "normalised",
        precision: Precision = "float32",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.dtype: torch.dtype = getattr(torch, precision)
        self.white = PIXELS[pixels].white
        self.model = model.to(self.dtype)
        reference = next(model.parameters())
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, device=reference.device).view(-1, 1, 1))
        self.train(model.training)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return _as_floats(self.model(self.normalise(image).to(self.dtype)))

    def normalise(self, image: Tensor) -> Tensor:
        """Pixels -> float32, as the model wants them."""
        return image if self.white is None else (image.float() / self.white - self.mean) / self.std


class DeployedDetector(Deployed):
    """The same for a model of padded images, which are padded with 0 after they are normalised.

    Shapes: image [N, C, H, W]; sizes [N, 2], int64, height and width of each without padding -> as above.
    """

    def forward(self, image: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        normalised = self.normalise(image)
        if self.white is not None:
            rows, columns = (torch.arange(side, device=image.device) for side in image.shape[2:])
            inside = (rows.view(-1, 1) < sizes[:, 0].view(-1, 1, 1)) & (columns < sizes[:, 1].view(-1, 1, 1))
            normalised = torch.where(inside.unsqueeze(1), normalised, 0.0)
        return _as_floats(self.model(normalised.to(self.dtype), sizes))


def _as_floats(outputs: Any) -> tuple[Tensor, ...]:
    """A tensor or several -> several, the floating ones float32."""
    outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
    return tuple(x.float() if x.is_floating_point() else x for x in outputs)
