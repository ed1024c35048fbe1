"""The training augmentation of the segmentation recipes: a picture and its labels -> what the network learns from.

The order and the numbers are those of the official training: random resize, crop, flip, photometric distortion,
normalise, pad.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from internimage.tasks.images import Image, normalise
from internimage.tasks.resizing import Size, fit_size, resize_bilinear
from internimage.tasks.segmentation.class_names import IGNORED

Labels = NDArray[np.uint8]  # [H, W], class or IGNORED

_REDRAWN_CROPS = 10


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image; data of a recipe.

    Raises:
        ValueError: a number is out of its range.
    """

    crop: Size  # height and width of the result, pixels
    bounds: Size | None = None  # long and short side that the picture is fitted to before the ratio; None: its own
    ratio: tuple[float, float] = (0.5, 2.0)  # by which the fitted picture is resized
    largest_class: float = 0.75  # share of a crop's labelled pixels; crops with more are drawn again, up to 10 times
    flip: float = 0.5  # probability of a horizontal flip
    distortion: bool = True  # photometric

    def __post_init__(self) -> None:
        for name in ("crop", "bounds"):
            sides = getattr(self, name)
            if sides is not None and not (len(sides) == 2 and min(sides) >= 1):
                raise ValueError(f"Augmentation: {name} must be two sides of at least 1 pixel, got {sides}")
        low, high = self.ratio
        if not 0 < low <= high:
            raise ValueError(f"Augmentation: ratio must be (low, high) with 0 < low <= high, got {self.ratio}")
        for name in ("largest_class", "flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Augmentation: {name} must be from 0 to 1, got {getattr(self, name)}")


def augment(
    image: Image, labels: Labels, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Draw one of the many training images that a picture gives; the same state of `rng` draws the same one.

    Args:
        image: uint8 [H, W, 3], RGB, of any size from 1 x 1.
        labels: uint8 [H, W].

    Returns:
        float32 [3, *crop], normalised, and uint8 labels [*crop]. What a picture is too small for is 0, its labels
        are IGNORED.
    """
    size = fit_size(image.shape[:2], augmentation.bounds, rng.uniform(*augmentation.ratio))
    image = resize_bilinear(image, size)
    labels = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST).astype(np.uint8, copy=False)
    rows, columns = draw_crop(labels, augmentation.crop, augmentation.largest_class, rng)
    image, labels = image[rows, columns], labels[rows, columns]
    if rng.random() < augmentation.flip:
        image, labels = image[:, ::-1], labels[:, ::-1]
    if augmentation.distortion:
        image = distort(np.ascontiguousarray(image), rng)
    pixels = torch.zeros(3, *augmentation.crop)
    classes = torch.full(augmentation.crop, IGNORED, dtype=torch.uint8)
    height, width = labels.shape
    pixels[:, :height, :width] = normalise(image)
    classes[:height, :width] = torch.from_numpy(np.ascontiguousarray(labels))
    return pixels, classes


def draw_crop(labels: Labels, size: Size, largest_class: float, rng: np.random.Generator) -> tuple[slice, slice]:
    """Draw rows and columns of a box anywhere in a picture, of `size` or as large as the picture is.

    A box with but one class, or where one has a share of `largest_class` or more, is drawn again, up to 10 times; with
    a `largest_class` of 1 any will do.
    """
    margins = [max(side - wanted, 0) for side, wanted in zip(labels.shape, size, strict=True)]
    for _ in range(1 + _REDRAWN_CROPS):
        top, left = rng.integers(0, margins, endpoint=True).tolist()
        box = slice(top, top + size[0]), slice(left, left + size[1])
        counts = np.bincount(labels[box].ravel(), minlength=IGNORED + 1)[:IGNORED]
        if largest_class == 1 or ((counts > 0).sum() > 1 and counts.max() < largest_class * counts.sum()):
            break
    return box


def distort(image: Image, rng: np.random.Generator) -> Image:
    """Photometric distortion (SSD, arXiv 1512.02325): change brightness, contrast, saturation and hue.

    Each is changed with a probability of one half. Contrast comes right after brightness or last, with equal chances.
    """

    def half() -> bool:
        return bool(rng.random() < 0.5)

    if half():
        image = _scaled(image, offset=rng.uniform(-32, 32))
    contrast_last = half()
    if not contrast_last and half():
        image = _scaled(image, factor=rng.uniform(0.5, 1.5))
    if half():
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.uint8, copy=False)
        hsv[..., 1] = _scaled(hsv[..., 1], factor=rng.uniform(0.5, 1.5))
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.uint8, copy=False)
    if half():
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.uint8, copy=False)
        hsv[..., 0] = (hsv[..., 0].astype(np.int64) + rng.integers(-18, 18)) % 180  # OpenCV halves the degrees
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.uint8, copy=False)
    if contrast_last and half():
        image = _scaled(image, factor=rng.uniform(0.5, 1.5))
    return image


def _scaled(image: Image, *, factor: float = 1.0, offset: float = 0.0) -> Image:
    scaled: Image = np.clip(image.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)
    return scaled
