"""Operations that change a picture's colours or move it, as AutoAugment (arXiv 1805.09501, Table 6) names them.

Each takes a picture uint8 [H, W, 3] and returns a new one of the same shape. They follow Pillow, with which the
published recipes were made: in the ranges that AutoAugment draws from, colours differ by at most 1 of 255. Moved
pictures differ a little more: OpenCV takes positions to 1/32 of a pixel, its bicubic kernel is a little sharper, and it
mixes the outermost pixels with the colour that fills the rest.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from internimage.models import IMAGENET_MEAN
from internimage.tasks.images import Image

# What moves into the picture from outside it.
_FILL = tuple(round(255 * mean) for mean in IMAGENET_MEAN)
_LEVELS = np.arange(256)
_GREY = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


def autocontrast(image: Image) -> Image:
    """Stretch each channel to the full range, from 0 to 255; a constant channel stays."""
    counts = _histograms(image)
    low, high = _least(counts), _greatest(counts)
    scale = np.where(high > low, 255 / np.maximum(high - low, 1), 1)
    return _look_up(image, _LEVELS[:, None] * scale - np.where(high > low, low, 0) * scale)


def equalize(image: Image) -> Image:
    """Flatten the histogram of each channel; one that is constant, or has too few pixels for it, stays."""
    counts = _histograms(image)
    below = np.cumsum(counts, axis=0) - counts
    step = np.take_along_axis(below, _greatest(counts)[None], axis=0) // 255
    return _look_up(image, np.where(step > 0, (below + step // 2) // np.maximum(step, 1), _LEVELS[:, None]))


def invert(image: Image) -> Image:
    """The photographic negative."""
    return _look_up(image, 255 - _LEVELS)


def posterize(image: Image, bits: int) -> Image:
    """Keep the highest `bits` of the 8 of each value; 0 leaves black."""
    return _look_up(image, _LEVELS & ~(255 >> bits))


def solarize(image: Image, threshold: int) -> Image:
    """Invert the values from `threshold` on; from 256 there are none."""
    return _look_up(image, np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS))


def solarize_add(image: Image, addition: int) -> Image:
    """Add to the values in the darker half of the range."""
    return _look_up(image, np.where(_LEVELS < 128, _LEVELS + addition, _LEVELS))


def brightness(image: Image, factor: float) -> Image:
    """0 is black, 1 the picture itself, above 1 brighter."""
    return _look_up(image, _LEVELS * factor)


def contrast(image: Image, factor: float) -> Image:
    """0 is the mean grey all over, 1 the picture itself, above 1 more contrast."""
    mean = int(np.dot(cv2.mean(image)[:3], _GREY) + 0.5)
    return _look_up(image, mean + (_LEVELS - mean) * factor)


def colour(image: Image, factor: float) -> Image:
    """0 is grey, 1 the picture itself, above 1 more saturated."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return _blend(grey, image, factor)


def sharpness(image: Image, factor: float) -> Image:
    """0 is blurred, 1 the picture itself, above 1 sharper; the outermost pixels stay."""
    smooth = image.copy()
    smooth[1:-1, 1:-1] = cv2.filter2D(image, -1, _SMOOTH)[1:-1, 1:-1]
    return _blend(smooth, image, factor)


def rotate(image: Image, degrees: float, interpolation: int = cv2.INTER_CUBIC) -> Image:
    """Turn anticlockwise about the centre."""
    height, width = image.shape[:2]
    return _warp(image, cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1).tolist(), interpolation)


def shear_x(image: Image, factor: float, interpolation: int = cv2.INTER_CUBIC) -> Image:
    """Move each row to the left by `factor` times its distance from the top."""
    return _warp(image, [[1, factor, 0], [0, 1, 0]], interpolation)


def shear_y(image: Image, factor: float, interpolation: int = cv2.INTER_CUBIC) -> Image:
    """Move each column up by `factor` times its distance from the left."""
    return _warp(image, [[1, 0, 0], [factor, 1, 0]], interpolation)


def translate_x(image: Image, share: float, interpolation: int = cv2.INTER_CUBIC) -> Image:
    """Move to the left by `share` of the width."""
    return _warp(image, [[1, 0, share * image.shape[1]], [0, 1, 0]], interpolation)


def translate_y(image: Image, share: float, interpolation: int = cv2.INTER_CUBIC) -> Image:
    """Move up by `share` of the height."""
    return _warp(image, [[1, 0, 0], [0, 1, share * image.shape[0]]], interpolation)


def _histograms(image: Image) -> NDArray[np.int64]:
    """[256, 3]: how many pixels have each value, in each channel."""
    return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in cv2.split(image)], axis=1)


def _least(counts: NDArray[np.int64]) -> NDArray[np.intp]:
    least: NDArray[np.intp] = np.argmax(counts > 0, axis=0)
    return least


def _greatest(counts: NDArray[np.int64]) -> NDArray[np.intp]:
    return 255 - _least(counts[::-1])


def _look_up(image: Image, table: NDArray[Any]) -> Image:
    """Replace each value by its entry in a table, [256] or [256, 3], clipped and with fractions cut off."""
    entries = np.clip(table, 0, 255).astype(np.uint8).reshape(1, 256, -1)
    return cv2.LUT(image, entries).astype(np.uint8, copy=False)


def _blend(start: NDArray[Any], end: Image, factor: float) -> Image:
    # OpenCV rounds and Pillow cuts fractions off. Not quite 0.5, so that whole numbers stay what they are.
    return cv2.addWeighted(start, 1 - factor, end, factor, -0.499).astype(np.uint8, copy=False)


def _warp(image: Image, matrix: Sequence[Sequence[float]], interpolation: int) -> Image:
    """Fetch each pixel from where the matrix, 2 x 3, maps its place; the origin is the corner of the picture."""
    by_centres = np.array(matrix, np.float64)
    by_centres[:, 2] += by_centres[:, :2].sum(1) / 2 - 0.5  # OpenCV's origin is the centre of the first pixel
    size = (image.shape[1], image.shape[0])
    flags = interpolation | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, by_centres, size, flags=flags, borderValue=_FILL).astype(np.uint8, copy=False)
