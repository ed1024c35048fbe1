"""Masks of objects as data sets store them, kept compactly and turned into RLE when they are read."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.detection.objects import RLE
from internimage.tasks.images import Image
from internimage.tasks.resizing import Size

try:
    from pycocotools import mask as coco_masks
except ImportError as error:
    raise ImportError(
        "data sets of detection need pycocotools, which is not installed: pip install 'internimage[detection]'"
    ) from error

_LEAST_COORDINATES = 6  # of an outline: three points
_MOST_DIGITS = 7  # of five bits, for a run: pictures have less than 2³⁴ pixels
_FURTHEST = 10  # times the picture's longer side: an outline takes as much memory as it is long


class Ragged:
    """Rows of numbers of different lengths in one flat array, which forked processes share.

    Args:
        typecode: of the numbers, as in the module array.
    """

    def __init__(self, typecode: str) -> None:
        self._values = array(typecode)
        self._ends = array("q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: int) -> NDArray[Any]:
        return np.array(self._values[self._ends[row] : self._ends[row + 1]])

    def append(self, row: Iterable[Any]) -> None:
        self._values.extend(row)
        self._ends.append(len(self._values))


class StoredMasks:
    """Masks by number, in the order they were put in: as outlines, or as compressed RLE."""

    def __init__(self) -> None:
        self._outlines = Ragged("d")  # x, y, x, y... of one polygon each; in double precision, which RLE depends on
        self._outline_ends = array("q", [0])  # a mask has several of them, or none
        self._rles = Ragged("B")

    def __len__(self) -> int:
        return len(self._rles)

    def append(self, segmentation: Any, size: Size) -> bool:
        """Put a mask in.

        Args:
            segmentation: as in COCO's JSON: a list of polygons [x, y, x, y...], or RLE, compressed or not; or nothing.
            size: of its picture, height and width.

        Returns:
            Whether it is a mask: not if there is nothing, or no polygon has three points.

        Raises:
            ValueError: something else, or RLE of another size.
        """
        rle = b""
        if isinstance(segmentation, dict):
            rle = _compressed(segmentation, size)
        elif segmentation:
            for polygon in _polygons(segmentation):
                self._outlines.append(polygon)
        self._rles.append(rle)
        self._outline_ends.append(len(self._outlines))
        return bool(rle) or self._outline_ends[-1] > self._outline_ends[-2]

    def read(self, number: int, size: Size) -> RLE:
        """A mask of a picture of this height and width.

        Raises:
            ValueError: coordinates that are no numbers, or far from the picture.
        """
        if counts := self._rles[number].tobytes():
            return {"size": list(size), "counts": counts}
        outlines = [self._outlines[row] for row in range(self._outline_ends[number], self._outline_ends[number + 1])]
        if not all((np.abs(outline) <= _FURTHEST * max(size)).all() for outline in outlines):
            raise ValueError(f"an outline leads far out of the picture of {size[0]}x{size[1]} pixels")
        merged: RLE = coco_masks.merge(coco_masks.frPyObjects([outline.tolist() for outline in outlines], *size))
        return merged


def decode_masks(masks: Sequence[RLE], size: Size) -> Image:
    """Masks as pixels: uint8 [G, H, W], 0 or 1.

    Args:
        masks: of one picture.
        size: its height and width.

    Raises:
        ValueError: RLE that is damaged.
    """
    pixels = np.zeros((len(masks), *size), np.uint8)
    for target, mask in zip(pixels, masks, strict=True):
        target[:] = coco_masks.decode(mask)
    return pixels


def mask_area(mask: RLE) -> int:
    """Pixels of a mask."""
    return int(coco_masks.area(mask))


def _compressed(segmentation: dict[str, Any], size: Size) -> bytes:
    counts = segmentation.get("counts")
    if segmentation.get("size") != list(size):
        raise ValueError(f"its RLE is of size {segmentation.get('size')}, expected [height, width] {list(size)}")
    if isinstance(counts, str):
        counts = counts.encode("ascii", "replace")
    elif isinstance(counts, list) and sum(counts) == size[0] * size[1] and min(counts) >= 0:
        counts = coco_masks.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"]
    if not isinstance(counts, bytes) or _pixels(counts) != size[0] * size[1]:
        raise ValueError(f"its RLE has no counts, or counts that don't sum up to {size[0]} x {size[1]} pixels")
    return counts


def _pixels(counts: bytes) -> int:
    """How many pixels the runs of compressed RLE cover together; -1 where they are damaged.

    pycocotools doesn't look, and reads beyond the end of a mask. A run is written five bits a character, the lowest
    first, the last one signed; from the fourth on as the difference to the run two before it.
    """
    digits = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(digits & 32 == 0)
    if digits.size == 0 or digits.min() < 0 or digits.max() > 63 or not last.size or last[-1] != digits.size - 1:
        return -1
    first = np.concatenate(([0], last[:-1] + 1))
    length = last - first + 1
    if length.max() > _MOST_DIGITS:
        return -1
    place = np.arange(digits.size) - np.repeat(first, length)
    written = np.add.reduceat((digits & 31) << 5 * place, first) - np.where(digits[last] & 16, 1 << 5 * length, 0)
    runs = np.concatenate((written[:1], np.cumsum(written[1::2]), np.cumsum(written[2::2])))
    return int(runs.sum()) if runs.min() >= 0 else -1


def _polygons(segmentation: Any) -> Iterable[Sequence[float]]:
    if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
        raise ValueError(f"its segmentation is {str(segmentation)[:40]}, expected polygons [[x, y, x, y...]] or RLE")
    return [polygon for polygon in segmentation if len(polygon) >= _LEAST_COORDINATES and not len(polygon) % 2]
