"""The training augmentation of classification and pre-training: a picture -> what the network learns from.

The order and the numbers are those of timm's ImageNet recipe: random resized crop (Szegedy et al., arXiv 1409.4842),
flip, RandAugment or colour jitter, normalise, random erasing (Zhong et al., arXiv 1708.04896).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from internimage.tasks import image_operations as ops
from internimage.tasks.images import Image, normalise, resize
from internimage.tasks.rand_augment import parse_policy, rand_augment

_ATTEMPTS = 10
_ERASED_AREA = (0.02, 1 / 3)
_ERASED_RATIO = (0.3, 1 / 0.3)


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image; data of a recipe.

    Raises:
        ValueError: a number is out of its range, or `rand_augment` can't be read.
    """

    size: int  # side of the result, pixels
    crop_scale: tuple[float, float] = (0.08, 1.0)  # share of the picture's area
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width over height
    flip: float = 0.5  # probability of a horizontal flip
    rand_augment: str = "rand-m9-mstd0.5-inc1"  # "" for none; see `parse_policy`
    color_jitter: float = 0.4  # of brightness, contrast and saturation; only where rand_augment is ""
    erasing: float = 0.25  # probability of filling one box with noise

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"Augmentation: size must be at least 1 pixel, got {self.size}")
        for name, most in (("crop_scale", 1.0), ("crop_ratio", math.inf)):
            low, high = getattr(self, name)
            if not (0 < low <= high <= most and math.isfinite(high)):
                raise ValueError(
                    f"Augmentation: {name} must be (low, high) with 0 < low <= high"
                    f"{' <= 1' if most == 1 else ''}, got {(low, high)}"
                )
        for name in ("flip", "color_jitter", "erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Augmentation: {name} must be from 0 to 1, got {getattr(self, name)}")
        if self.rand_augment:
            parse_policy(self.rand_augment)


class Box(NamedTuple):
    """Part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Of rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


class View(NamedTuple):
    """An augmented image, and where in its picture it looks."""

    pixels: Tensor  # float32 [3, size, size], normalised as `internimage.tasks.images.normalise` does it
    crop: Box
    flipped: bool  # left and right are exchanged


def augment(image: Image, augmentation: Augmentation, rng: np.random.Generator) -> Tensor:
    """The pixels of `draw_view`."""
    return draw_view(image, augmentation, rng).pixels


def draw_view(image: Image, augmentation: Augmentation, rng: np.random.Generator) -> View:
    """Draw one of the many training images that a picture gives; the same state of `rng` draws the same one.

    Args:
        image: uint8 [H, W, 3], RGB, of any size from 1 x 1.

    Raises:
        ValueError: `image` is of another shape or dtype, or empty.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(
            f"augment: image must be uint8 [H, W, 3] with at least one pixel, got {image.dtype} {list(image.shape)}; "
            "internimage.tasks.images.read_image reads it so"
        )
    height, width = image.shape[:2]
    crop = draw_crop(height, width, augmentation.crop_scale, augmentation.crop_ratio, rng)
    image = resize(image[crop.slices], augmentation.size, augmentation.size)
    flipped = rng.random() < augmentation.flip
    if flipped:
        image = cv2.flip(image, 1).astype(np.uint8, copy=False)
    if augmentation.rand_augment:
        image = rand_augment(image, parse_policy(augmentation.rand_augment), rng)
    else:
        image = jitter_colours(image, augmentation.color_jitter, rng)
    pixels = normalise(image)
    if rng.random() < augmentation.erasing:
        erase(pixels, rng)
    return View(pixels, crop, flipped)


def draw_crop(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Box:
    """Draw a box of a random share of the area and a random aspect ratio, anywhere in a picture of this size.

    Where none of 10 boxes fits, as in a long strip, it is the largest in the middle whose ratio is allowed.
    """
    if box := _draw_box(height, width, scale, ratio, rng):
        return box
    nearest = min(max(width / height, ratio[0]), ratio[1])
    crop_height = min(height, max(1, round(width / nearest)))
    crop_width = min(width, max(1, round(height * nearest)))
    return Box((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width)


def jitter_colours(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Change brightness, contrast and saturation in random order, each by a factor in [1 - strength, 1 + strength]."""
    changes = (ops.brightness, ops.contrast, ops.colour)
    for i in rng.permutation(len(changes)):
        image = changes[i](image, rng.uniform(1 - strength, 1 + strength))
    return image


def erase(pixels: Tensor, rng: np.random.Generator) -> None:
    """Fill a random box of a normalised image, [3, H, W], with normal noise, in place.

    An image of few pixels in which none of 10 boxes fits stays as it is.
    """
    channels, height, width = pixels.shape
    if box := _draw_box(height, width, _ERASED_AREA, _ERASED_RATIO, rng):
        noise = rng.standard_normal((channels, box.height, box.width), dtype=np.float32)
        pixels[:, *box.slices] = torch.from_numpy(noise)


def _draw_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Box | None:
    """A box of a uniform share of the area and a log-uniform ratio of width to height, or None if 10 don't fit."""
    for _ in range(_ATTEMPTS):
        area = rng.uniform(*scale) * height * width
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        box_height, box_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 1 <= box_height <= height and 1 <= box_width <= width:
            top, left = rng.integers((height - box_height + 1, width - box_width + 1)).tolist()
            return Box(top, left, box_height, box_width)
    return None
