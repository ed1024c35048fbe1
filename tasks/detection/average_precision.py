"""Recall, precision, and the area under their curve, of one class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Curve(NamedTuple):
    """Recall and precision as more and more detections count, the best first: float64 [D] each."""

    recall: Floats
    precision: Floats


def curve_of(scores: Floats, right: NDArray[np.bool_], positives: int) -> Curve:
    """The curve of detections that are right or wrong.

    Args:
        scores: [D]; of equal ones the first comes first.
        right: [D].
        positives: objects that could be found, at least 1.
    """
    ordered = right[np.argsort(-scores, kind="stable")]
    found = np.cumsum(ordered)
    return Curve(found / positives, found / np.arange(1, len(ordered) + 1))


def area(curve: Curve) -> float:
    """VOC's average precision since 2010: the area under the best precision at no less recall."""
    recall = np.concatenate(([0.0], curve.recall))
    return float(np.diff(recall) @ _envelope(curve.precision))


def eleven_points(curve: Curve) -> float:
    """VOC's average precision up to 2009: the mean of the best precisions at recalls of at least 0, 0.1, ... 1."""
    recalls = np.arange(11) / 10
    places = np.searchsorted(curve.recall, recalls - 1e-12)  # a tenth that was divided may be a rounding error less
    return float(np.append(_envelope(curve.precision), 0)[places].mean())


def trapezia(curve: Curve) -> float:
    """The area under the curve as it is, by the trapezoidal rule; before the first detection, precision is its own."""
    recall = np.concatenate(([0.0], curve.recall))
    precision = np.concatenate((curve.precision[:1], curve.precision))
    return float(np.diff(recall) @ (precision[1:] + precision[:-1]) / 2) if len(curve.recall) else 0.0


def _envelope(precision: Floats) -> Floats:
    envelope: Floats = np.maximum.accumulate(precision[::-1])[::-1]
    return envelope
