"""Made-up pictures with objects and detections of them, some right, some wrong."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from internimage.tasks.detection.cases import Case
from internimage.tasks.detection.objects import Found, Objects

SIZE = 120, 160


def objects(boxes: Any, labels: Any = None, ignored: Any = None, *, masks: bool = False) -> Objects:
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    count = len(corners)
    areas = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
    return Objects(
        corners,
        np.zeros(count, np.int64) if labels is None else np.array(labels, np.int64),
        np.zeros(count, bool) if ignored is None else np.array(ignored, bool),
        areas.astype(np.float32),
        ellipses(corners) if masks else None,
    )


def found(boxes: Any, scores: Any, labels: Any = None, *, masks: bool = False) -> Found:
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    chosen = np.zeros(len(corners), np.int64) if labels is None else np.array(labels, np.int64)
    return Found(corners, np.array(scores, np.float32), chosen, ellipses(corners) if masks else None)


def case(truth: Objects, detections: Found, number: int = 0, **known: Any) -> Case:
    return Case(f"{number}.png", number, SIZE, truth, detections, **known)


def ellipses(boxes: NDArray[np.float32]) -> tuple[Any, ...]:
    """Masks that fill their boxes but for the corners."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    masks = []
    for x1, y1, x2, y2 in boxes.tolist():
        inside = ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 <= 1
        masks.append(coco_masks.encode(np.asfortranarray(inside, dtype=np.uint8)))
    return tuple(masks)


def random_case(rng: np.random.Generator, number: int, classes: int, *, masks: bool = False) -> Case:
    """Up to six objects, some of them ignored; detections near them and elsewhere, whose scores may be equal."""
    boxes = _boxes(rng, rng.integers(0, 7))
    labels = rng.integers(0, classes, len(boxes))
    truth = objects(boxes, labels, rng.random(len(boxes)) < 0.2, masks=masks)
    near = np.flatnonzero(rng.random(len(boxes)) < 0.8).repeat(rng.integers(1, 3))
    guesses = np.concatenate([boxes[near] + rng.normal(0, 3, (len(near), 4)), _boxes(rng, rng.integers(0, 4))])
    guesses[:, 2:] = np.maximum(guesses[:, 2:], guesses[:, :2] + 2)
    guessed = np.concatenate([labels[near], rng.integers(0, classes, len(guesses) - len(near))])
    scores = np.sort(rng.integers(1, 11, len(guesses)) / 10)[::-1]
    return case(truth, found(guesses, scores, guessed, masks=masks), number)


def random_cases(seed: int, *, pictures: int = 5, classes: int = 3, masks: bool = False) -> list[Case]:
    rng = np.random.default_rng(seed)
    return [random_case(rng, number, classes, masks=masks) for number in range(pictures)]


def perfect(cases: list[Case]) -> list[Case]:
    """The same pictures with the truth as detections."""
    return [
        case(
            one.truth,
            Found(
                one.truth.boxes,
                np.linspace(1, 0.5, len(one.truth.boxes), dtype=np.float32),
                one.truth.labels,
                one.truth.masks,
            ),
            number,
        )
        for number, one in enumerate(cases)
    ]


def _boxes(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    corners = rng.uniform((0, 0), (SIZE[1] - 60, SIZE[0] - 60), (count, 2))
    return np.concatenate([corners, corners + rng.uniform(8, 60, (count, 2))], axis=1)
