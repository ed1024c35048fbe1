"""Pictures of what a detector finds, for people: above a legend, beside the truth, many on one sheet.

For boxes, masks and tags see `overlays`. Small images are enlarged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.detection.cases import Case, above
from internimage.tasks.detection.confusion import f1, outcome
from internimage.tasks.detection.objects import Found, Objects
from internimage.tasks.detection.overlays import IGNORED, class_colours, overlay
from internimage.tasks.drawing import GREY, INK, fit, join, shorten, text_line, text_width, write_text
from internimage.tasks.images import Image

_LONG_SIDE = 640  # of an image, at least
_PANEL = (760, 960)  # height and width of one of two, at most
_SHEET_PANEL = (420, 620)
_GAP, _MARGIN = 12, 20


def prediction_picture(image: Image, found: Found, names: Sequence[str], *, threshold: float) -> Image:
    """Draw the detections of at least a score on an image, above a legend that counts them.

    Args:
        image: uint8 [H, W, 3].
        found: in it.
        names: of the classes.
        threshold: least score.
    """
    shown = fit(image, *_enlarged(image))
    counted = above(found, threshold)
    counts = np.bincount(counted.labels, minlength=len(names))
    return join([draw_found(shown, image, counted, names), _legend(counts, names, shown)], axis=0, gap=0)


def frame_picture(image: Image, found: Found, names: Sequence[str], *, threshold: float) -> Image:
    """Draw the detections of at least a score on an image, which keeps its size, as the frames of a video must."""
    return draw_found(image, image, above(found, threshold), names)


def comparison_picture(case: Case, image: Image, names: Sequence[str], *, threshold: float) -> Image:
    """Draw truth and detections of one picture side by side below its figures, above a legend.

    Args:
        case: of the picture.
        image: uint8 [H, W, 3].
        names: of the classes.
        threshold: least score of the detections.
    """
    row = _panels(case, image, names, _PANEL, threshold)
    width = max(row.shape[1], 400)
    right, missed, wrong = outcome(case, threshold)
    figures = f"{right} found, {missed} missed, {wrong} wrong; {_score(case, threshold)}"
    scale = 0.6
    title = shorten(case.name, max(0, width - text_width(f":  {figures}", scale)), scale)
    counts = _counts(case, len(names), threshold)
    legend = _legend(counts, names, row)
    return _framed([text_line(f"{title}:  {figures}", width, scale, INK), row, legend])


def sheet(
    groups: Iterable[tuple[str, Iterable[tuple[Case, Image]]]], names: Sequence[str], *, threshold: float
) -> Image | None:
    """Draw several pictures below each other, each as truth and detections, under the names of their groups.

    Args:
        groups: name, and the pictures (uint8 [H, W, 3]) with their cases.
        names: of the classes.
        threshold: least score of the detections.

    Returns:
        The sheet; None where there is no picture.
    """
    columns: list[Image] = []
    for name, cases in groups:
        rows = []
        for case, image in cases:
            panels = _panels(case, image, names, _SHEET_PANEL, threshold)
            right, missed, wrong = outcome(case, threshold)
            text = f"{_score(case, threshold)}: {right} found, {missed} missed, {wrong} wrong.  {case.name}"
            rows += [text_line(text, max(panels.shape[1], 400), 0.5, GREY), panels]
        if rows:
            heading = text_line(f"{name}: truth, detections", max(row.shape[1] for row in rows), 0.6, INK)
            columns.append(join([heading, *rows], axis=0, gap=4))
    return _framed([join(columns, axis=1, gap=3 * _GAP)]) if columns else None


def draw_found(shown: Image, image: Image, found: Found, names: Sequence[str]) -> Image:
    """Draw detections, the surest tagged first, on an image that may have been resized.

    Args:
        shown: the resized image.
        image: the one that boxes and masks belong to.
        found: in it.
        names: of the classes.
    """
    labels, scores = found.labels.tolist(), found.scores.tolist()
    captions = [f"{names[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    return overlay(
        shown, found.boxes * _scale(shown, image), class_colours(len(names))[found.labels], captions, found.masks
    )


def draw_truth(shown: Image, image: Image, truth: Objects, names: Sequence[str]) -> Image:
    """Draw the true objects, those that are ignored in grey; see `draw_found`."""
    captions = [
        "ignored" if ignored else names[label]
        for label, ignored in zip(truth.labels.tolist(), truth.ignored.tolist(), strict=True)
    ]
    colours = class_colours(len(names))[truth.labels]
    colours[truth.ignored] = IGNORED
    return overlay(shown, truth.boxes * _scale(shown, image), colours, captions, truth.masks)


def _panels(case: Case, image: Image, names: Sequence[str], box: tuple[int, int], threshold: float) -> Image:
    shown = fit(image, *box)
    found = above(case.found, threshold)
    return join([draw_truth(shown, image, case.truth, names), draw_found(shown, image, found, names)], axis=1, gap=_GAP)


def _counts(case: Case, num_classes: int, threshold: float) -> NDArray[np.int64]:
    """[2, C], true objects and detections of each class."""
    labels = case.truth.labels[~case.truth.ignored], above(case.found, threshold).labels
    return np.stack([np.bincount(part, minlength=num_classes) for part in labels])


def _score(case: Case, threshold: float) -> str:
    score = f1(case, threshold)
    return "no objects" if score is None else f"F1 {score:.0%}"


def _legend(counts: NDArray[np.int64], names: Sequence[str], above_it: Image) -> Image:
    """The classes that occur, in lines as wide as the picture above, with how often: [C], or truth and found [2, C]."""
    counts = np.atleast_2d(counts)
    width = max(above_it.shape[1], 240)
    scale = 0.5 * min(max(width / 1000, 1), 3)
    tall, side = round(44 * scale), round(22 * scale)
    colours = class_colours(len(names))
    lines = [np.full((tall, width, 3), 255, np.uint8)]
    x = side
    for label in np.argsort(-counts.sum(axis=0), kind="stable"):
        if not counts[:, label].any():
            break
        number = " / ".join(map(str, counts[:, label].tolist()))
        text = f"{shorten(names[label], width - 4 * side - text_width(f'  {number}', scale), scale)}  {number}"
        wide = round(1.5 * side) + text_width(text, scale)
        if x > side and x + wide > width:
            lines.append(np.full((tall, width, 3), 255, np.uint8))
            x = side
        top = (tall - side) // 2
        lines[-1][top : top + side, x : x + side] = colours[label]
        write_text(lines[-1], text, x + round(1.5 * side), top + side, scale, INK, thickness=max(1, round(scale)))
        x += wide + 2 * side
    if not counts.any():
        write_text(lines[0], "no objects", side, (tall + side) // 2, scale, GREY, thickness=max(1, round(scale)))
    return np.concatenate(lines)


def _framed(parts: Sequence[Image]) -> Image:
    page = join(parts, axis=0, gap=_GAP)
    return np.pad(page, [(_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0)], constant_values=255)


def _enlarged(image: Image) -> tuple[int, int]:
    height, width = image.shape[:2]
    scale = max(1.0, _LONG_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _scale(shown: Image, image: Image) -> NDArray[np.float64]:
    """Of corners x1, y1, x2, y2."""
    return np.array([shown.shape[1] / image.shape[1], shown.shape[0] / image.shape[0]] * 2)
