"""From a picture to the inputs of a deployed model, as the task in its manifest says. See `exportable` for the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from internimage.deploy import PIXELS
from internimage.tasks.images import Image, centre_crop, resize_short_side
from internimage.tasks.resizing import Size, fit_size, resize_bilinear


def picture_inputs(image: Image, task: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """A picture, uint8 [H, W, 3] -> image [1, 3, h, w]; for a detector with its size without padding, [1, 2]."""
    view = task["view"]
    if "crop" in view:
        return (_pixels(centre_crop(resize_short_side(image, view["crop"]), view["crop"]), task),)
    size, stretched = _sizes(image.shape[:2], view)
    resized = resize_bilinear(image, size)
    if not view["pad"]:
        return (_pixels(resize_bilinear(resized, stretched), task),)
    padded = F.pad(_pixels(resized, task), (0, stretched[1] - size[1], 0, stretched[0] - size[0]))
    return padded, torch.tensor([size])


def _sizes(picture: Sequence[int], view: Mapping[str, Any]) -> tuple[Size, Size]:
    """Height and width of a picture within the image, and of the image."""
    divisor, size = view["divisor"], fit_size(picture, view["bounds"])
    least, greatest = zip(*view["within"], strict=True)
    most = [max(low, high // divisor * divisor) for low, high in zip(least, greatest, strict=True)]
    size = fit_size(size, None, min(1.0, most[0] / size[0], most[1] / size[1]))
    multiples = [-(-side // divisor) * divisor for side in size]
    height, width = (min(max(side, low), high) for side, low, high in zip(multiples, least, most, strict=True))
    return size, (height, width)


def _pixels(image: Image, task: Mapping[str, Any]) -> Tensor:
    """The picture as the model wants it, [1, 3, H, W]."""
    form = PIXELS[task["pixels"]]
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].contiguous()
    if form.dtype is torch.uint8:
        return pixels
    if form.white is not None:
        return pixels.float() * (form.white / 255)
    mean, std = (torch.tensor(task[name]).view(3, 1, 1) for name in ("mean", "std"))
    return (pixels.float() / 255 - mean) / std
