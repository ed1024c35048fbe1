"""What detections of one class are taken for, and how well single pictures fare; at IoU 0.5, from a score on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.detection.cases import Case, above, choose
from internimage.tasks.detection.matching import NOTHING, hits, match
from internimage.tasks.detection.objects import Objects


def confusion(cases: Sequence[Case], num_classes: int, threshold: float) -> NDArray[np.int64]:
    """How often an object of one class is found as another.

    Detections of the right class take their objects first, then those of other classes take what is left.

    Args:
        cases: the pictures.
        num_classes: C.
        threshold: score of the detections that count.

    Returns:
        [C + 1, C + 1], by true and predicted class. The last row counts detections of nothing, the last column objects
        that nothing found.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for case in cases:
        found, truth = above(case.found, threshold), case.truth
        matched = match(found, truth)
        rest = np.flatnonzero(matched == NOTHING)
        left = np.setdiff1d(np.flatnonzero(~truth.ignored), matched)
        second = match(choose(found, rest), _objects(truth, left), by_class=False)
        matched[rest] = np.where(second == NOTHING, NOTHING, np.append(left, NOTHING)[second])
        _, counted = hits(matched, truth.ignored)
        labels = np.append(truth.labels, num_classes)  # what NOTHING points to
        np.add.at(counts, (labels[matched[counted]], found.labels[counted]), 1)
        missed = np.setdiff1d(np.flatnonzero(~truth.ignored), matched)
        np.add.at(counts[:, num_classes], truth.labels[missed], 1)
    return counts


def outcome(case: Case, threshold: float) -> tuple[int, int, int]:
    """How many objects are found, how many missed, and how many detections are of nothing."""
    found = above(case.found, threshold)
    right, counted = hits(match(found, case.truth), case.truth.ignored)
    number = int(right.sum())
    return number, int((~case.truth.ignored).sum()) - number, int(counted.sum()) - number


def f1(case: Case, threshold: float) -> float | None:
    """2 found / (2 found + missed + of nothing), in [0, 1]; None where there is neither object nor detection."""
    right, missed, wrong = outcome(case, threshold)
    total = 2 * right + missed + wrong
    return 2 * right / total if total else None


def best_and_worst(cases: Sequence[Case], threshold: float, count: int) -> tuple[list[int], list[int]]:
    """The places of the pictures of the highest and of the lowest F1, `count` of each, none in both."""
    scored = [(score, place) for place, case in enumerate(cases) if (score := f1(case, threshold)) is not None]
    order = [place for _, place in sorted(scored, key=lambda item: (-item[0], item[1]))]
    half = min(count, (len(order) + 1) // 2)
    return order[:half], order[half:][-count:][::-1]


def _objects(truth: Objects, which: NDArray[np.int64]) -> Objects:
    return replace(
        truth,
        boxes=truth.boxes[which],
        labels=truth.labels[which],
        ignored=truth.ignored[which],
        areas=truth.areas[which],
        masks=None,
    )
