"""What there is to judge: one picture after the other, its objects beside what a detector found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.detection.objects import Found, Objects, Verified


@dataclass(frozen=True, eq=False)
class Case:
    """One picture.

    Attributes:
        name: of the picture.
        image_id: that results in COCO's format call it by.
        size: height and width, pixels.
        truth: what it holds.
        found: what a detector says that it holds.
        verified: the labels that people looked for; None: all.
    """

    name: str
    image_id: int | str
    size: tuple[int, int]
    truth: Objects
    found: Found
    verified: Verified | None = None


def choose(found: Found, which: NDArray[Any]) -> Found:
    """Some of the detections, by a mask or by indices."""
    masks = None if found.masks is None else tuple(found.masks[i] for i in np.arange(len(found.boxes))[which])
    return Found(found.boxes[which], found.scores[which], found.labels[which], masks)


def above(found: Found, threshold: float) -> Found:
    """The detections of at least this score."""
    return choose(found, found.scores >= threshold)


def best(found: Found, count: int) -> Found:
    """The best detections of all classes together; of equal scores the first."""
    return choose(found, np.argsort(-found.scores, kind="stable")[:count])


def drop_unchecked(cases: Sequence[Case]) -> list[Case]:
    """Without detections of classes that nobody looked for in a picture: whether they are right is not known."""
    return [
        case
        if (verified := case.verified) is None
        else replace(
            case, found=choose(case.found, np.isin(case.found.labels, list(verified.present | verified.absent)))
        )
        for case in cases
    ]
