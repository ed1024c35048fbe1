"""Every box learns what it should, and samples are what was asked for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from internimage.tasks.detection.assign import BACKGROUND, IGNORED, Assigner
from internimage.tasks.detection.boxes import pairwise_iou
from internimage.tasks.detection.sampling import sample


def plainly(assigner: Assigner, overlaps: list[list[float]]) -> list[int]:
    """The rules, box by box and then truth by truth."""
    assigned = []
    for row in overlaps:
        largest = max(row)
        learns = row.index(largest) if largest >= assigner.positive else IGNORED
        assigned.append(BACKGROUND if largest < assigner.negative else learns)
    for truth in range(len(overlaps[0])):
        best = max(row[truth] for row in overlaps)
        for index, row in enumerate(overlaps):
            if assigner.least is not None and row[truth] == best >= assigner.least:
                assigned[index] = truth
    return assigned


@given(st.integers(0, 2**31), st.sampled_from([Assigner(0.7, 0.3, least=0.3), Assigner(0.5, 0.5), Assigner(0.6, 0.2)]))
@settings(max_examples=60, deadline=None)
def test_boxes_learn_what_the_rules_say(seed: int, assigner: Assigner) -> None:
    corners = torch.randint(0, 12, (14, 2), generator=torch.Generator().manual_seed(seed)).float()
    boxes = torch.cat((corners, corners + 8), dim=1)  # on a grid, so that there are ties
    truth = boxes[:3] + 1
    expected = plainly(assigner, pairwise_iou(boxes, truth).tolist())
    assert assigner.assign(boxes, truth).tolist() == expected


def test_without_objects_all_is_background() -> None:
    assigned = Assigner(0.5, 0.5, least=0.5).assign(torch.rand(3, 4), torch.zeros(0, 4))
    assert assigned.tolist() == [BACKGROUND] * 3
    assert Assigner(0.5, 0.5, least=0.5).assign(torch.zeros(0, 4), torch.rand(2, 4)).shape == (0,)


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"),
    [(50, 500, (25, 75)), (10, 500, (10, 90)), (50, 20, (25, 20)), (0, 0, (0, 0))],
)
def test_background_fills_what_objects_leave(positives: int, negatives: int, expected: tuple[int, int]) -> None:
    assigned = torch.tensor([3] * positives + [BACKGROUND] * negatives + [IGNORED] * 30)
    assigned = assigned[torch.randperm(len(assigned), generator=torch.Generator().manual_seed(0))]
    positive, negative = sample(assigned, 100, 0.25)
    assert (len(positive), len(negative)) == expected
    assert (assigned[positive] == 3).all()
    assert (assigned[negative] == BACKGROUND).all()
    for chosen in (positive, negative):
        assert chosen.tolist() == sorted(set(chosen.tolist()))


def test_a_seed_decides_which_samples_are_drawn() -> None:
    assigned = torch.full((1000,), BACKGROUND)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(sample(assigned, 20, 0.5)[1].tolist())
    assert drawn[0] == drawn[1] != drawn[2]
