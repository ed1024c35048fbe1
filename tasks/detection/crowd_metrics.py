"""CrowdHuman's figures (arXiv 1805.00123, section 4): average precision, log-average miss rate, Jaccard index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from internimage.tasks.detection.average_precision import Curve, trapezia
from internimage.tasks.detection.cases import Case, above
from internimage.tasks.detection.class_curves import Judged, class_curves
from internimage.tasks.detection.matching import hits, match, overlaps
from internimage.tasks.detection.objects import Found, Objects
from internimage.tasks.detection.report import ClassScores, Report, mean_figures

_IOU = 0.5
_FALSE_PER_IMAGE = np.logspace(-2, 0, 9)
_LEAST_MISS_RATE = 1e-10  # its logarithm is taken
_THRESHOLDS = np.arange(10) / 10


def crowd_report(cases: Sequence[Case], num_classes: int) -> Report:
    """All at IoU 0.5: average precision, MR^-2 (low is good) and the best Jaccard index of any score threshold.

    Raises:
        ValueError: no picture holds an object that counts.
    """
    objects, curves = class_curves(cases, num_classes, _judge)
    per_class = tuple(
        ClassScores(count, {"ap50": trapezia(curves[label]), "mr": miss_rate(curves[label], count, len(cases))})
        if count
        else ClassScores(0, {})
        for label, count in enumerate(objects)
    )
    figures = mean_figures(per_class) | {"ji": jaccard_index(cases)}
    return Report(len(cases), figures, per_class, curves)


def miss_rate(curve: Curve, objects: int, pictures: int) -> float:
    """MR^-2: the geometric mean of the miss rates at nine numbers of false detections a picture, from 0.01 to 1.

    Each is read where the curve first reaches the number, or at its end (Dollár et al. 2012, section 4.3).
    """
    if not len(curve.recall):
        return 1.0
    right = np.rint(curve.recall * objects)
    false = np.arange(1, len(right) + 1) - right
    places = np.searchsorted(false / pictures, _FALSE_PER_IMAGE).clip(max=len(right) - 1)
    missed = np.maximum(1 - curve.recall[places], _LEAST_MISS_RATE)
    return float(np.exp(np.log(missed).mean()))


def jaccard_index(cases: Sequence[Case]) -> float:
    """The mean over pictures of matched pairs / (detections + objects - pairs), at the best of ten thresholds.

    Pairs are as many as can be formed of detections and objects of one class, and leave as few detections as possible.
    Those in ignored regions don't count, nor do pictures without either.
    """
    return max(_mean_ratio(cases, float(threshold)) for threshold in _THRESHOLDS)


def _judge(found: Found, truth: Objects) -> Judged:
    right, counted = hits(match(found, truth, _IOU), truth.ignored)
    return Judged(found.scores[counted], right[counted], int((~truth.ignored).sum()))


def _mean_ratio(cases: Sequence[Case], threshold: float) -> float:
    ratios = [ratio for case in cases if (ratio := _ratio(above(case.found, threshold), case.truth)) is not None]
    return sum(ratios) / len(ratios) if ratios else 0.0


def _ratio(found: Found, truth: Objects) -> float | None:
    overlap = overlaps(found.boxes, truth.boxes, truth.ignored)
    near = (overlap >= _IOU) & (found.labels[:, None] == truth.labels)
    objects = int((~truth.ignored).sum())
    outside = ~near[:, truth.ignored].any(axis=1)
    # The most pairs; among these as many as can be of detections that would count against it.
    worth = near[:, ~truth.ignored] * (len(outside) + 1 + outside[:, None])
    places = linear_sum_assignment(worth, maximize=True)
    paired = np.zeros(len(outside), bool)
    paired[places[0]] = worth[places] > 0
    detections = int((paired | outside).sum())
    pairs = int(paired.sum())
    return pairs / (detections + objects - pairs) if detections + objects else None
