"""The curves of all classes, from a rule that judges the detections of one picture and class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.detection.average_precision import Curve, curve_of
from internimage.tasks.detection.cases import Case, choose
from internimage.tasks.detection.objects import Found, Objects


class Judged(NamedTuple):
    """The detections of one class in one picture.

    Attributes:
        scores: [D], of those that count.
        right: [D].
        positives: objects that could be found.
    """

    scores: NDArray[np.floating[Any]]
    right: NDArray[np.bool_]
    positives: int


Judge = Callable[[Found, Objects], Judged]


def class_curves(cases: Sequence[Case], num_classes: int, judge: Judge) -> tuple[list[int], dict[int, Curve]]:
    """How many objects of each class there are to find, and the curves of those classes that have some."""
    parts: list[list[Judged]] = [[] for _ in range(num_classes)]
    for case in cases:
        for label in np.union1d(case.truth.labels, case.found.labels):
            parts[label].append(judge(*of_class(case, int(label))))
    objects = [sum(part.positives for part in of_label) for of_label in parts]
    curves = {}
    for label, of_label in enumerate(parts):
        if objects[label]:
            scores, right = (np.concatenate([part[i] for part in of_label]) for i in (0, 1))
            curves[label] = curve_of(scores, right, objects[label])
    return objects, curves


def of_class(case: Case, label: int) -> tuple[Found, Objects]:
    """The detections and the objects of one class, without masks."""
    truth, of_truth = case.truth, case.truth.labels == label
    objects = Objects(
        truth.boxes[of_truth], truth.labels[of_truth], truth.ignored[of_truth], truth.areas[of_truth], None
    )
    return choose(case.found, case.found.labels == label), objects
