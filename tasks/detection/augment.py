"""The training augmentation of the detection recipes: a picture and its objects -> what the network learns from.

The order and the numbers are those of the official training: flip, where wanted resize and crop, resize, normalise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from internimage.tasks.detection.objects import Objects
from internimage.tasks.detection.stored_masks import decode_masks
from internimage.tasks.images import Image, normalise
from internimage.tasks.resizing import Size, fit_size, resize_bilinear

Boxes = NDArray[np.float32]

_LEAST_SIDE = 1  # pixels of a box in its picture; smaller objects are not learned, as in the official training
_REDRAWN_CROPS = 10


@dataclass(frozen=True)
class Scales:
    """Sizes that a picture is resized to; its shape is kept.

    Attributes:
        short: sides, pixels; one is drawn, and the picture's shorter side gets it.
        long: the longer side gets no more.

    Raises:
        ValueError: a side of less than one pixel, or none.
    """

    short: Sequence[int]
    long: int

    def __post_init__(self) -> None:
        if not self.short or min(*self.short, self.long) < 1:
            raise ValueError(f"Scales: sides must be at least 1 pixel, got short {self.short} and long {self.long}")

    def draw(self, size: Size, rng: np.random.Generator) -> Size:
        """Height and width for a picture of this height and width."""
        return fit_size(size, (self.long, self.short[int(rng.integers(len(self.short)))]))


@dataclass(frozen=True)
class Crop:
    """A part of a picture that is cut out.

    Attributes:
        scales: that the picture is resized to before.
        sides: least and most; height and width are drawn apart. A shorter picture is taken as it is.
        empty: a part without objects may be taken; otherwise it is drawn again, up to 10 times, and if that doesn't
            help all of the picture is taken.
        probability: of a crop.

    Raises:
        ValueError: a number is out of its range.
    """

    scales: Scales
    sides: tuple[int, int]
    empty: bool
    probability: float

    def __post_init__(self) -> None:
        if not 1 <= self.sides[0] <= self.sides[1]:
            raise ValueError(f"Crop: sides must be (least, most) from 1, got {self.sides}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"Crop: probability must be from 0 to 1, got {self.probability}")


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image; data of a recipe.

    Attributes:
        scales: of the result.
        crop: before; None: never.
        flip: probability of a horizontal flip.

    Raises:
        ValueError: a number is out of its range.
    """

    scales: Scales
    crop: Crop | None
    flip: float

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1:
            raise ValueError(f"Augmentation: flip must be from 0 to 1, got {self.flip}")


def augment(
    image: Image, objects: Objects, augmentation: Augmentation, rng: np.random.Generator, *, masks: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Draw one of the many training images that a picture gives; the same state of `rng` draws the same one.

    Args:
        image: uint8 [H, W, 3], RGB, of any size from 1 x 1.
        objects: in it.
        augmentation: what to draw from.
        rng: drawn from.
        masks: whether they are wanted; the objects must have them.

    Returns:
        float32 [3, h, w], normalised, and what is to be learned: "boxes" float32 [G, 4], "labels" int64 [G], and where
        wanted "masks" uint8 [G, h, w]. A mask may be empty where a crop has cut all of it but left some of its box.

    Raises:
        ValueError: masks are wanted, and there are none, or damaged ones.
    """
    if masks and objects.masks is None:
        raise ValueError("augment: masks are wanted, but the objects have none; take a detector without mask heads")
    view = _View(image, objects.boxes)
    if rng.random() < augmentation.flip:
        view.flip()
    crop = augmentation.crop
    if crop is not None and rng.random() < crop.probability:
        view.resize(crop.scales.draw(view.size, rng))
        view.crop(*_draw_crop(view, ~objects.ignored, crop, rng))
    view.resize(augmentation.scales.draw(view.size, rng))
    large = _sides(objects.boxes).min(axis=1) >= _LEAST_SIDE
    learned = np.flatnonzero(_has_area(view.boxes) & ~objects.ignored & large)
    target = {
        "boxes": torch.from_numpy(view.boxes[learned]),
        "labels": torch.from_numpy(objects.labels[learned]),
    }
    if masks and objects.masks is not None:
        chosen = decode_masks([objects.masks[index] for index in learned], (image.shape[0], image.shape[1]))
        target["masks"] = torch.from_numpy(view.see(chosen))
    return normalise(view.image), target


class _View:
    """A picture and boxes under way. Masks go the same way at the end: each step picks rows and columns of them.

    That is exact, for the official training resizes masks to the nearest pixel.
    """

    def __init__(self, image: Image, boxes: Boxes) -> None:
        self.image = image
        self.boxes = boxes.copy()
        self._rows, self._columns = (np.arange(side) for side in image.shape[:2])

    @property
    def size(self) -> Size:
        return self.image.shape[0], self.image.shape[1]

    def flip(self) -> None:
        self.image = np.ascontiguousarray(self.image[:, ::-1])
        self.boxes[:, [2, 0]] = self.size[1] - self.boxes[:, [0, 2]]
        self._columns = self._columns[::-1]

    def resize(self, size: Size) -> None:
        (height, width), old = size, self.size
        self.image = resize_bilinear(self.image, size)
        self.boxes *= np.array((width / old[1], height / old[0]) * 2, np.float32)
        self._clip()
        self._rows = self._rows[np.arange(height) * old[0] // height]
        self._columns = self._columns[np.arange(width) * old[1] // width]

    def crop(self, rows: slice, columns: slice) -> None:
        self.image = self.image[rows, columns]
        self.boxes -= np.array((columns.start, rows.start) * 2, np.float32)
        self._clip()
        self._rows, self._columns = self._rows[rows], self._columns[columns]

    def see(self, masks: Image) -> Image:
        """What is to be seen of masks [G, H, W] of the whole picture."""
        return masks.take(self._columns, axis=2).take(self._rows, axis=1)

    def _clip(self) -> None:
        height, width = self.size
        np.clip(self.boxes, 0, np.array((width, height) * 2, np.float32), out=self.boxes)


def _draw_crop(view: _View, learned: NDArray[np.bool_], crop: Crop, rng: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns anywhere in a picture."""
    x1, y1, x2, y2 = view.boxes[learned & _has_area(view.boxes)].T
    for _ in range(1 + _REDRAWN_CROPS):
        rows, columns = (_draw_part(side, crop.sides, rng) for side in view.size)
        inside = (x2 > columns.start) & (x1 < columns.stop) & (y2 > rows.start) & (y1 < rows.stop)
        if crop.empty or inside.any() or not len(x1):
            return rows, columns
    return slice(0, view.size[0]), slice(0, view.size[1])


def _draw_part(side: int, sides: tuple[int, int], rng: np.random.Generator) -> slice:
    """A part anywhere in a side of a picture."""
    least, most = (min(side, end) for end in sides)
    length = int(rng.integers(least, most, endpoint=True))
    start = int(rng.integers(0, side - length, endpoint=True))
    return slice(start, start + length)


def _sides(boxes: Boxes) -> Boxes:
    return boxes[:, 2:] - boxes[:, :2]


def _has_area(boxes: Boxes) -> NDArray[np.bool_]:
    positive: NDArray[np.bool_] = _sides(boxes).min(axis=1) > 0
    return positive
