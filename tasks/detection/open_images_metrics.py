"""OpenImages' average precision at IoU 0.5, as in its challenges: group-of boxes, and verified labels only.

A group-of box is one object: the best detection inside of it finds it, the others don't count. Detections of classes
that nobody verified in a picture don't count. The hierarchy of the classes is not expanded: labels are taken as they
are, so the data must hold the labels of the parents where those are to be judged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from internimage.tasks.detection.average_precision import area
from internimage.tasks.detection.cases import Case, choose, drop_unchecked
from internimage.tasks.detection.class_curves import Judged, class_curves
from internimage.tasks.detection.matching import overlaps
from internimage.tasks.detection.objects import Found, Objects
from internimage.tasks.detection.report import ClassScores, Report, mean_figures

_IOU = 0.5  # and the share of a detection inside of a group


def open_images_report(cases: Sequence[Case], num_classes: int) -> Report:
    """
    Raises:
        ValueError: no picture holds an object.
    """
    objects, curves = class_curves(drop_unchecked(cases), num_classes, _judge)
    per_class = tuple(
        ClassScores(count, {"ap50": area(curves[label])}) if count else ClassScores(0, {})
        for label, count in enumerate(objects)
    )
    return Report(len(cases), mean_figures(per_class), per_class, curves)


def _judge(found: Found, truth: Objects) -> Judged:
    found = choose(found, np.argsort(-found.scores, kind="stable"))
    right = _single(found, truth)
    counted = np.ones(len(right), bool)
    inside = overlaps(found.boxes, truth.boxes[truth.ignored], np.ones(int(truth.ignored.sum()), bool))
    found_groups = set()
    for row in np.flatnonzero(~right) if inside.size else []:
        group = int(inside[row].argmax())
        if inside[row, group] >= _IOU:
            right[row] = group not in found_groups
            counted[row] = right[row]
            found_groups.add(group)
    return Judged(found.scores[counted], right[counted], len(truth.boxes))


def _single(found: Found, truth: Objects) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which detections, the best first, are right about objects that are no groups, as in VOC."""
    right = np.zeros(len(found.boxes), bool)
    overlap = overlaps(found.boxes, truth.boxes[~truth.ignored])
    taken = set()
    for row in range(len(right)) if overlap.size else []:
        nearest = int(overlap[row].argmax())
        if overlap[row, nearest] >= _IOU:
            right[row] = nearest not in taken
            taken.add(nearest)
    return right
