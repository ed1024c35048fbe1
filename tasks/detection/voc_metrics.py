"""PASCAL VOC's average precision (Everingham et al. 2010, section 4.2): one IoU of 0.5, difficult objects ignored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.detection.average_precision import area, eleven_points
from internimage.tasks.detection.cases import Case
from internimage.tasks.detection.class_curves import Judged, class_curves
from internimage.tasks.detection.matching import overlaps
from internimage.tasks.detection.objects import Found, Objects
from internimage.tasks.detection.report import ClassScores, Report, mean_figures

_IOU = 0.5
_LAST_PIXEL = np.array((0, 0, 1, 1), np.float32)


def voc_report(cases: Sequence[Case], num_classes: int) -> Report:
    """Both forms of VOC's average precision: the area under the curve (since 2010), and at 11 recalls (2007).

    VOC's corners are the pixels at the box's ends, and its layout keeps them so: sides are their differences plus 1.

    Raises:
        ValueError: no picture holds an object that counts.
    """
    objects, curves = class_curves(cases, num_classes, _judge)
    per_class = tuple(
        ClassScores(count, {"ap50": area(curves[label]), "ap50_11_points": eleven_points(curves[label])})
        if count
        else ClassScores(0, {})
        for label, count in enumerate(objects)
    )
    return Report(len(cases), mean_figures(per_class), per_class, curves)


def _judge(found: Found, truth: Objects) -> Judged:
    """A detection is of the object that it overlaps most; right if that is not taken yet, ignored if difficult."""
    right, counted = np.zeros(len(found.boxes), bool), np.ones(len(found.boxes), bool)
    overlap = overlaps(found.boxes + _LAST_PIXEL, truth.boxes + _LAST_PIXEL)
    taken: NDArray[np.bool_] = np.zeros(len(truth.boxes), bool)
    if overlap.size:
        for row in np.argsort(-found.scores, kind="stable"):
            nearest = overlap[row].argmax()
            if overlap[row, nearest] < _IOU:
                continue
            counted[row] = not truth.ignored[nearest]
            right[row] = counted[row] and not taken[nearest]
            taken[nearest] = True
    return Judged(found.scores[counted], right[counted], int((~truth.ignored).sum()))
