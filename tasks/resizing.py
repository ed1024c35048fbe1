"""Sizes and resizing of pictures as in the official tests of detection and segmentation. Knows no task."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from internimage.tasks.images import Image

Size = tuple[int, int]  # height and width, or long and short side where it says so


def fit_size(size: Sequence[int], bounds: Size | None, factor: float = 1.0) -> Size:
    """The largest size of the same shape whose sides stay within `factor` times the bounds.

    Args:
        size: height and width.
        bounds: long and short side; None: the size itself.
        factor: of the bounds.

    Returns:
        Height and width, at least 1.
    """
    if bounds is not None:
        # Cut to whole pixels as in the official code, but not for a rounding error.
        long, short = (int(side * factor + 1e-6) for side in sorted(bounds, reverse=True))
        factor = min(long / max(size), short / min(size))
    height, width = (max(1, int(side * factor + 0.5)) for side in size)
    return height, width


def resize_bilinear(image: Image, size: Size) -> Image:
    """Resize to height and width in 8 bits, without antialiasing, as the official code does it."""
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
