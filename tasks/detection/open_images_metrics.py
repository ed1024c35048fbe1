"""OpenImages' average precision at IoU 0.5, as in its challenges: group-of boxes, and verified labels only.

A group-of box is one object: the best detection inside of it finds it, the others don't count. Detections of classes
that nobody verified in a picture don't count. Where the hierarchy of the classes is known, an object is one of every
class that its own is a kind of; a picture that holds a class holds these too, and one that doesn't hold a class holds
none of its kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.detection.average_precision import area
from internimage.tasks.detection.cases import Case, choose, drop_unchecked
from internimage.tasks.detection.class_curves import Judged, class_curves
from internimage.tasks.detection.matching import overlaps
from internimage.tasks.detection.objects import Ancestors, Found, Objects, Verified
from internimage.tasks.detection.report import ClassScores, Report, mean_figures

_UNEXPANDED = (
    "classes are not expanded by their hierarchy, as the challenges expand them: put bbox_labels_600_hierarchy.json "
    "beside the annotations, or name it by --hierarchy"
)
_IOU = 0.5  # and the share of a detection inside of a group


def open_images_report(
    cases: Sequence[Case], num_classes: int, ancestors: Ancestors | None = None, *, expand_detections: bool = False
) -> Report:
    """
    Args:
        cases: the pictures.
        num_classes: that there are.
        ancestors: of each class, by label; None: labels are taken as they are.
        expand_detections: let each detection count for the ancestors of its class, too.

    Raises:
        ValueError: no picture holds an object.
    """
    if ancestors is not None:
        cases = [_expand(case, ancestors, detections=expand_detections) for case in cases]
    objects, curves = class_curves(drop_unchecked(cases), num_classes, _judge)
    per_class = tuple(
        ClassScores(count, {"ap50": area(curves[label])}) if count else ClassScores(0, {})
        for label, count in enumerate(objects)
    )
    return Report(len(cases), mean_figures(per_class), per_class, curves, _UNEXPANDED if ancestors is None else "")


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


def _expand(case: Case, ancestors: Ancestors, *, detections: bool) -> Case:
    """A picture with its objects once for each class that they belong to, without masks."""
    truth, verified = case.truth, case.verified
    rows, labels = _expanded(truth.labels, ancestors)
    objects = Objects(truth.boxes[rows], labels, truth.ignored[rows], truth.areas[rows], None)
    if verified is not None:
        present = verified.present.union(*(ancestors[label] for label in verified.present))
        kinds = {label for label, above in enumerate(ancestors) if above & verified.absent}
        verified = Verified(present, verified.absent | kinds, verified.incomplete)
    found = case.found
    if detections:
        rows, labels = _expanded(found.labels, ancestors)
        found = Found(found.boxes[rows], found.scores[rows], labels, None)
    return replace(case, truth=objects, found=found, verified=verified)


def _expanded(labels: NDArray[np.int64], ancestors: Ancestors) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places in `labels`, as often as each has classes, and these classes."""
    pairs = [(row, one) for row, label in enumerate(labels.tolist()) for one in (label, *sorted(ancestors[label]))]
    rows, expanded = np.array(pairs, np.int64).reshape(-1, 2).T
    return rows, expanded
