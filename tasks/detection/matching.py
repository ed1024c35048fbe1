"""Which detection finds which object, by the overlap of their boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.detection.coco_format import to_xywh
from internimage.tasks.detection.objects import Found, Objects
from internimage.tasks.detection.pycoco import mask_tools

NOTHING = -1


def overlaps(
    boxes: NDArray[np.float32], others: NDArray[np.float32], inside: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Intersection over union of each box with each other one.

    Args:
        boxes: [K, 4], corners.
        others: [G, 4], corners.
        inside: [G], others of which the share of the box that lies inside them is wanted instead; None: none.

    Returns:
        [K, G].
    """
    if not len(boxes) or not len(others):
        return np.zeros((len(boxes), len(others)))
    crowd = np.zeros(len(others), np.uint8) if inside is None else inside.astype(np.uint8)
    result: NDArray[np.float64] = mask_tools().iou(to_xywh(boxes), to_xywh(others), crowd)
    return result


def match(found: Found, truth: Objects, iou: float = 0.5, *, by_class: bool = True) -> NDArray[np.int64]:
    """What each detection finds, by COCO's rule.

    The better a detection, the earlier it takes the object that it overlaps most, of those that are left. One that
    gets none may lie in an ignored region, which any number may share.

    Args:
        found: K detections.
        truth: G objects.
        iou: that it takes; with ignored regions, the share of the detection that lies inside.
        by_class: only objects of a detection's class count.

    Returns:
        [K], the object, or `NOTHING`.
    """
    matched = np.full(len(found.boxes), NOTHING)
    overlap = overlaps(found.boxes, truth.boxes, truth.ignored)
    if not overlap.size:
        return matched
    if by_class:
        overlap[found.labels[:, None] != truth.labels] = 0
    left = ~truth.ignored
    for row in np.argsort(-found.scores, kind="stable"):
        for allowed in (left, truth.ignored):
            candidates = np.where(allowed, overlap[row], -1)
            nearest = candidates.argmax()
            if candidates[nearest] >= iou:
                matched[row] = nearest
                left[nearest] = False
                break
    return matched


def hits(matched: NDArray[np.int64], ignored: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which detections are right, and which count at all: [K] and [K], from `match` and the objects' `ignored`."""
    padded = np.append(ignored, False)  # what NOTHING points to
    counted = ~padded[matched]
    return (matched != NOTHING) & counted, counted
