"""What several views of one picture say becomes one: by suppression, by decay of the scores, or by fusion of boxes.

All take boxes [M, 4] (corners), scores [M], labels [M] and the number of views, and return what remains, the surest
first. Boxes of different classes never meet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from internimage.ops import batched_nms
from internimage.tasks.detection.matching import overlaps

_NMS_IOU = 0.5
_SOFT_NMS_SIGMA = 0.5
_SOFT_NMS_LEAST = 0.001
_FUSION_IOU = 0.55

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


class Boxes(NamedTuple):
    """Detections: boxes [K, 4], scores [K] and labels [K]."""

    boxes: Floats
    scores: Floats
    labels: Labels


Merge = Callable[[Boxes, int], Boxes]


def suppress(found: Boxes, views: int, *, iou: float = _NMS_IOU) -> Boxes:
    """Non-maximum suppression: a box goes where a better one of its class overlaps it by more than `iou`."""
    boxes, scores, labels = map(torch.from_numpy, found)
    return _chosen(found, batched_nms(boxes, scores, labels, iou).numpy())


def soften(found: Boxes, views: int, *, sigma: float = _SOFT_NMS_SIGMA, least: float = _SOFT_NMS_LEAST) -> Boxes:
    """Soft-NMS, Gaussian form (arXiv 1704.04503, section 3): the best box M lowers the others, then the next best does.

    s_i *= exp(-iou(M, b_i)^2 / sigma). What falls below `least` is dropped.
    """
    overlap = overlaps(found.boxes, found.boxes)
    overlap[found.labels[:, None] != found.labels] = 0
    scores = found.scores.astype(np.float64)
    left = np.ones(len(scores), bool)
    for _ in range(len(scores)):
        best = np.where(left, scores, -1).argmax()
        left[best] = False
        scores = np.where(left, scores * np.exp(-(overlap[best] ** 2) / sigma), scores)
    lowered = found._replace(scores=scores.astype(np.float32))
    order = np.argsort(-lowered.scores, kind="stable")
    return _chosen(lowered, order[lowered.scores[order] >= least])


def fuse(found: Boxes, views: int, *, iou: float = _FUSION_IOU) -> Boxes:
    """Weighted boxes fusion (arXiv 1910.13302, section 3): means of overlapping boxes, weighted by their scores.

    From the best box on, each joins the cluster of its class whose mean it overlaps most, if by more than `iou`, or
    starts one. The score of a cluster of T boxes is their mean, times min(T, views) / views: what few views see is less
    sure.
    """
    clusters: dict[int, list[_Cluster]] = {}
    for row in np.argsort(-found.scores, kind="stable"):
        of_class = clusters.setdefault(int(found.labels[row]), [])
        box, score = found.boxes[row], float(found.scores[row])
        near = overlaps(box[None], np.array([cluster.box for cluster in of_class], np.float32).reshape(-1, 4))[0]
        if len(near) and near.max() > iou:
            of_class[int(near.argmax())].add(box, score)
        else:
            of_class.append(_Cluster(box, score))
    fused = [(cluster, label) for label, of_class in clusters.items() for cluster in of_class]
    boxes = np.array([cluster.box for cluster, _ in fused], np.float32).reshape(-1, 4)
    scores = np.array([cluster.score(views) for cluster, _ in fused], np.float32)
    result = Boxes(boxes, scores, np.array([label for _, label in fused], np.int64))
    return _chosen(result, np.argsort(-scores, kind="stable"))


class _Cluster:
    def __init__(self, box: Floats, score: float) -> None:
        self._weighted = np.zeros(4)
        self._scores: list[float] = []
        self.add(box, score)

    def add(self, box: Floats, score: float) -> None:
        self._weighted += score * box.astype(np.float64)
        self._scores.append(score)

    @property
    def box(self) -> NDArray[np.float64]:
        return self._weighted / sum(self._scores)

    def score(self, views: int) -> float:
        return sum(self._scores) / len(self._scores) * min(len(self._scores), views) / views


MERGES: dict[str, Merge] = {"nms": suppress, "soft-nms": soften, "fusion": fuse}


def _chosen(found: Boxes, which: NDArray[Any]) -> Boxes:
    return Boxes(found.boxes[which], found.scores[which], found.labels[which])
