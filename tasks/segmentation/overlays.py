"""Draw on an image what its pixels are taken for: the colours of the classes, or which pixels are wrong.

Labels are integers [H, W], the class of each pixel, 255 where there is none. A palette is uint8 [C, 3], the colours of
the classes in RGB.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from internimage.tasks.images import Image
from internimage.tasks.segmentation.class_names import IGNORED

Labels = NDArray[np.integer[Any]]
Palette = NDArray[np.uint8]

WRONG = (213, 94, 0)  # vermilion: seen on grey with every kind of colour blindness (Okabe and Ito 2008)

_SIDE_PER_LINE_WIDTH = 500  # pixels of the shorter side


def overlay(image: Image, labels: Labels, palette: Palette, opacity: float = 0.5) -> Image:
    """Lay the colours of the classes over an image, with a thin line along the borders of regions.

    The lines grow with the image. Pixels without a class stay as they are.

    Args:
        image: uint8 [H, W, 3].
        labels: [H, W].
        palette: uint8 [C, 3].
        opacity: of the colours, from 0 (only lines) to 1 (nothing of the image).

    Raises:
        ValueError: shapes that differ, a label that is no class, an opacity outside [0, 1].
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"overlay: expected an opacity from 0 to 1, got {opacity}")
    classes = checked_labels(image, labels, len(palette))
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    result = cv2.addWeighted(image, 1 - opacity, colours[classes], opacity, 0).astype(np.uint8, copy=False)
    lines = _borders(classes)
    result[lines] = _line_colours(colours)[classes[lines]]
    bare = classes == IGNORED
    result[bare] = image[bare]
    return result


def error_map(image: Image, predicted: Labels, truth: Labels) -> Image:
    """Show which pixels are wrong: those in vermilion, right ones in pale grey, pixels without a true class striped.

    Args:
        image: uint8 [H, W, 3].
        predicted: [H, W].
        truth: [H, W].

    Raises:
        ValueError: shapes that differ.
    """
    predicted, truth = (checked_labels(image, labels, IGNORED) for labels in (predicted, truth))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    result = cv2.cvtColor((150 + 0.33 * grey).astype(np.uint8), cv2.COLOR_GRAY2RGB)
    bare = truth == IGNORED
    width = max(3, min(truth.shape) // 60)
    stripes = np.add.outer(*map(np.arange, truth.shape)) // width % 2
    result[bare] = np.where(stripes, 255, 190)[bare, None]
    result[~bare & (predicted != truth)] = WRONG
    return result.astype(np.uint8, copy=False)


def checked_labels(image: Image, labels: Labels, num_classes: int) -> NDArray[np.uint8]:
    """The labels in 8 bits.

    Raises:
        ValueError: the labels are not as large as the image, or one is neither a class nor 255.
    """
    if labels.shape != image.shape[:2]:
        raise ValueError(
            f"expected labels of the image's size {list(image.shape[:2])}, got {list(labels.shape)}; resize them to "
            "the nearest class, or the scores before argmax"
        )
    strange = labels[(labels != IGNORED) & ((labels < 0) | (labels >= num_classes))]
    if len(strange):
        raise ValueError(f"expected labels from 0 to {num_classes - 1}, or {IGNORED} for no class, got {strange[0]}")
    return labels.astype(np.uint8, copy=False)


def _borders(classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    width = max(1, min(classes.shape) // _SIDE_PER_LINE_WIDTH)
    kernel = np.ones((width + 1, width + 1), np.uint8)
    borders: NDArray[np.bool_] = cv2.dilate(classes, kernel) != cv2.erode(classes, kernel)
    return borders


def _line_colours(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Darker where the colour is light, and lighter where it is dark."""
    light = colours @ (0.299, 0.587, 0.114) > 110
    return (0.4 * colours + 0.6 * np.where(light, 0, 255)[:, None]).astype(np.uint8)
