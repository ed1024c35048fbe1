"""The confusion matrix counts every object and detection once, and pictures are ranked by their F1."""

import numpy as np
import pytest
from detection_cases import case, found, objects, random_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from internimage.tasks.detection.confusion import best_and_worst, confusion, f1, outcome

pytestmark = pytest.mark.once

LEFT, RIGHT, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 60, 60]


def test_a_picture_by_hand() -> None:
    truth = objects([LEFT, RIGHT, FAR, [100, 50, 150, 100]], [0, 1, 0, 0], [False, False, False, True])
    in_crowd = [110, 60, 120, 70]
    detections = found(
        [LEFT, LEFT, RIGHT, [80, 0, 90, 10], in_crowd, FAR], [0.95, 0.9, 0.8, 0.7, 0.6, 0.1], [1, 0, 0, 1, 0, 0]
    )
    one = case(truth, detections)
    # Of the two on the left that of the right class takes the object, though less sure; the last is below 0.3.
    assert confusion([one], 2, 0.3).tolist() == [[1, 0, 1], [1, 0, 0], [0, 2, 0]]
    assert outcome(one, 0.3) == (1, 2, 3)
    assert f1(one, 0.3) == 2 / (2 + 2 + 3)
    assert outcome(one, 0.05) == (2, 1, 3)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_every_object_has_one_cell(seed: int) -> None:
    cases = random_cases(seed)
    counts = confusion(cases, 3, 0.35)
    labels = np.concatenate([one.truth.labels[~one.truth.ignored] for one in cases])
    assert counts[:-1].sum(axis=1).tolist() == np.bincount(labels, minlength=3).tolist()
    assert counts[-1, -1] == 0
    assert counts.trace() == sum(outcome(one, 0.35)[0] for one in cases)
    assert counts[:, :-1].sum() == sum(right + wrong for right, _, wrong in (outcome(one, 0.35) for one in cases))


def test_the_best_and_the_worst_are_different_pictures() -> None:
    boxes = [[x, 0, x + 9, 9] for x in range(0, 50, 10)]
    cases = [case(objects(boxes), found(boxes[:n], [0.9] * n), n) for n in (3, 1, 5, 0, 4)]
    empty = case(objects([]), found([], []), 9)
    assert best_and_worst([*cases, empty], 0.3, 2) == ([2, 4], [3, 1])
    assert best_and_worst(cases[:3], 0.3, 4) == ([2, 0], [1])
    assert best_and_worst([empty], 0.3, 4) == ([], [])
