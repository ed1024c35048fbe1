"""Merging follows the papers' formulas, written out in plain Python."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internimage.tasks.detection.merging import MERGES, Boxes, fuse, soften, suppress

pytestmark = pytest.mark.once


def some_boxes(seed: int, count: int) -> Boxes:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 30, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 30, (count, 2))], axis=1).astype(np.float32)
    return Boxes(boxes, rng.uniform(0.05, 1, count).astype(np.float32), rng.integers(0, 2, count))


def iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def rows(found: Boxes) -> list[tuple[list[float], float, int]]:
    return list(zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True))


def check(found: Boxes, expected: list[Any]) -> None:
    expected = sorted(expected, key=lambda row: -row[1])
    assert len(found.scores) == len(expected)
    for (box, score, label), row in zip(rows(found), expected, strict=True):
        assert (box, score, label) == (pytest.approx(row[0], rel=1e-4), pytest.approx(row[1], rel=1e-4), row[2])


@given(st.integers(0, 2**32 - 1), st.integers(0, 14))
@settings(max_examples=40, deadline=None)
def test_suppression_keeps_a_box_that_no_better_kept_one_overlaps(seed: int, count: int) -> None:
    found = some_boxes(seed, count)
    kept: list[Any] = []
    for row in sorted(rows(found), key=lambda row: -row[1]):
        if all(row[2] != other[2] or iou(row[0], other[0]) <= 0.5 for other in kept):
            kept.append(row)
    check(suppress(found, 2), kept)


@given(st.integers(0, 2**32 - 1), st.integers(0, 14))
@settings(max_examples=40, deadline=None)
def test_soft_nms_lowers_scores_by_the_gaussian_of_the_overlap(seed: int, count: int) -> None:
    found = some_boxes(seed, count)
    left, done = [list(row) for row in rows(found)], []
    while left:
        best = max(left, key=lambda row: row[1])
        left.remove(best)
        done.append(best)
        for row in left:
            if row[2] == best[2]:
                row[1] *= math.exp(-(iou(row[0], best[0]) ** 2) / 0.5)
    check(soften(found, 2), [row for row in done if row[1] >= 0.001])


@given(st.integers(0, 2**32 - 1), st.integers(0, 14), st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_fusion_averages_clusters_by_their_scores(seed: int, count: int, views: int) -> None:
    def mean(cluster: list[Any]) -> list[float]:
        total = sum(row[1] for row in cluster)
        return [sum(row[1] * row[0][i] for row in cluster) / total for i in range(4)]

    found = some_boxes(seed, count)
    clusters: list[list[Any]] = []
    for row in sorted(rows(found), key=lambda row: -row[1]):
        mine = [cluster for cluster in clusters if cluster[0][2] == row[2]]
        nearest = max(mine, key=lambda cluster: iou(mean(cluster), row[0]), default=None)
        if nearest is not None and iou(mean(nearest), row[0]) > 0.55:
            nearest.append(row)
        else:
            clusters.append([row])
    expected = [(mean(c), sum(row[1] for row in c) / len(c) * min(len(c), views) / views, c[0][2]) for c in clusters]
    check(fuse(found, views), expected)


@pytest.mark.parametrize("name", MERGES)
def test_one_object_seen_by_all_views_stays_one(name: str) -> None:
    box = np.array([[10, 20, 50, 60]], np.float32)
    found = Boxes(np.concatenate([box, box + 1, box - 1]), np.float32([0.9, 0.8, 0.7]), np.zeros(3, np.int64))
    merged = MERGES[name](found, 3)
    assert np.abs(merged.boxes[0] - box[0]).max() <= 1
    assert merged.scores[0] == pytest.approx(0.8 if name == "fusion" else 0.9)
    assert (merged.scores[1:] < 0.2).all()
