"""The objects of a picture as arrays: as a data set knows them, and as a detector finds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

RLE = Mapping[str, Any]  # a mask as pycocotools encodes it: {"size": [H, W], "counts": bytes}
Ancestors = tuple[frozenset[int], ...]  # by label, the labels that it is a kind of
Frequency = Literal["r", "c", "f"]  # of a class in LVIS: rare, common, frequent


@dataclass(frozen=True, eq=False)
class Objects:
    """What a data set knows of one picture.

    Attributes:
        boxes: float32 [G, 4], corners x1, y1, x2, y2 in pixels of the picture; of positive size.
        labels: int64 [G], from 0.
        ignored: bool [G]: crowd regions, difficult objects; they are not learned, and finding them or not is no error.
        areas: float32 [G], pixels, of the mask where there is one; what tells small from large objects.
        masks: of each object; None: the data has none.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    areas: NDArray[np.float32]
    masks: tuple[RLE, ...] | None


@dataclass(frozen=True)
class Verified:
    """Labels of which people know whether a picture holds them, where they looked for some alone.

    Attributes:
        present: there are objects.
        absent: there is none.
        incomplete: of those present, labels of which not every object is marked.
    """

    present: frozenset[int] = frozenset()
    absent: frozenset[int] = frozenset()
    incomplete: frozenset[int] = frozenset()


@dataclass(frozen=True, eq=False)
class Found:
    """What a detector finds in one picture, the surest first.

    Attributes:
        boxes: float32 [K, 4], corners x1, y1, x2, y2 in pixels of the picture.
        scores: float32 [K], in [0, 1].
        labels: int64 [K], from 0.
        masks: of each object, of the picture's size; None: the detector draws none.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: tuple[RLE, ...] | None
