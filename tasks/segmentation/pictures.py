"""Pictures of what a segmentor predicts, for people: beside a legend, beside the truth, many on one sheet.

For labels and palettes see `overlays`. Small images are enlarged, and large ones shrunk to about 2000 pixels' width.
"""

from collections.abc import Iterable, Sequence
from itertools import islice

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from internimage.tasks.drawing import GREY, INK, fit, join, shorten, text_line, text_width, write_text
from internimage.tasks.images import Image
from internimage.tasks.segmentation.class_names import IGNORED
from internimage.tasks.segmentation.metrics import SegmentationMetrics
from internimage.tasks.segmentation.overlays import Labels, Palette, checked_labels, error_map, overlay

Counts = NDArray[np.int64]  # [C], pixels of each class
Box = tuple[int, int]  # height and width

_WIDEST, _TALLEST = 1960, 1300  # all panels together
_LONG_SIDE = 320  # of a panel, at least
_SHEET_BOX = (285, 380)
_MOST_EXAMPLES = 8
_LEGEND_ROWS = 6  # below panels, at most
_GAP, _MARGIN = 12, 20


def class_counts(labels: Labels, num_classes: int) -> Counts:
    """How many pixels each class has, int64 [C]; pixels of label 255 don't count."""
    return np.bincount(labels[labels != IGNORED], minlength=num_classes)


def prediction_picture(
    image: Image,
    predicted: Labels,
    names: Sequence[str],
    palette: Palette,
    truth: Labels | None = None,
    *,
    title: str = "",
) -> Image:
    """Draw the predicted classes over an image, beside a legend with their shares of the pixels.

    With the truth, draw image, truth, prediction and errors side by side, below the image's figures, above the legend.

    Args:
        image: uint8 [H, W, 3].
        predicted: [H, W].
        names: of the classes.
        palette: uint8 [C, 3].
        truth: [H, W].
        title: for one the file's name.

    Raises:
        ValueError: shapes that differ, a label that is no class, or more or fewer names than colours.
    """
    _check_names(names, palette)
    if truth is None:
        return _beside_legend(image, predicted, names, palette, title)
    metrics = SegmentationMetrics(len(names))
    _update(metrics, predicted, truth)
    columns = max((4, 2, 1), key=lambda columns: _box(image, columns, 4 // columns))
    panels = _panels(image, truth, predicted, palette, _box(image, columns, 4 // columns))
    scale = _text_scale(columns * panels[0][1].shape[1])
    headed = [_headed(panel, name, max(panel.shape[1], 100), scale) for name, panel in panels]
    rows = [join(headed[i : i + columns], axis=1, gap=_GAP) for i in range(0, 4, columns)]
    counts = [class_counts(labels, len(names)) for labels in (truth, predicted)]
    return _page(rows, _scores(metrics), title, counts, names, palette, scale)


def sheet(
    examples: Iterable[tuple[Image, Labels, Labels]], names: Sequence[str], palette: Palette, *, title: str = ""
) -> Image:
    """Draw several examples below each other, each as image, truth, prediction and errors, above one legend.

    Args:
        examples: (image, truth, prediction) each, uint8 [H, W, 3], [H, W] and [H, W]; the first eight are drawn.
        names: of the classes.
        palette: uint8 [C, 3].
        title: above the sheet.

    Raises:
        ValueError: no examples, shapes that differ, a label that is no class, or more or fewer names than colours.
    """
    _check_names(names, palette)
    rows: list[Image] = []
    counts = [np.zeros(len(names), np.int64) for _ in range(2)]
    together = SegmentationMetrics(len(names))
    scale = 0.6
    for image, truth, predicted in islice(examples, _MOST_EXAMPLES):
        alone = SegmentationMetrics(len(names))
        for metrics in (alone, together):
            _update(metrics, predicted, truth)
        for sums, labels in zip(counts, (truth, predicted), strict=True):
            sums += class_counts(labels, len(names))
        panels = _panels(image, truth, predicted, palette, _SHEET_BOX)
        titles = ["", "", ""] if rows else [name for name, _ in panels[:3]]
        titles.append(f"errors: {_scores(alone)}")
        headed = [_headed(panel, text, _SHEET_BOX[1], scale) for text, (_, panel) in zip(titles, panels, strict=True)]
        rows.append(join(headed, axis=1, gap=_GAP))
    if not rows:
        raise ValueError("sheet: expected at least one example, got none")
    return _page(rows, _scores(together), title, counts, names, palette, scale)


def _beside_legend(image: Image, predicted: Labels, names: Sequence[str], palette: Palette, title: str) -> Image:
    small = fit(image, *_box(image, 1, 1, _WIDEST - 620))
    shown = overlay(small, _resized(checked_labels(image, predicted, len(names)), small), palette)
    scale = _text_scale(shown.shape[1] + 400)
    rows = max(12, shown.shape[0] // _row_height(scale) - 1)
    legend = _legend([class_counts(predicted, len(names))], names, palette, round(700 * scale), rows, scale)
    body = join([shown, legend], axis=1, gap=2 * _GAP)
    return _framed([text_line(title, body.shape[1], scale * 1.2, INK), body] if title else [body])


def _panels(image: Image, truth: Labels, predicted: Labels, palette: Palette, box: Box) -> list[tuple[str, Image]]:
    small = fit(image, *box)
    true, found = (_resized(checked_labels(image, labels, len(palette)), small) for labels in (truth, predicted))
    return [
        ("image", small),
        ("truth", overlay(small, true, palette)),
        ("prediction", overlay(small, found, palette)),
        ("errors", error_map(small, found, true)),
    ]


def _page(
    rows: Sequence[Image],
    scores: str,
    title: str,
    counts: Sequence[Counts],
    names: Sequence[str],
    palette: Palette,
    scale: float,
) -> Image:
    """Rows of panels between the title with the figures and the legend."""
    panels = join(rows, axis=0, gap=_GAP)
    width = max(panels.shape[1], round(1200 * scale))
    large = scale * 1.2
    if title:
        title = shorten(title, width - text_width(f":  {scores}", large), large) + ":  "
    legend = _legend(counts, names, palette, width, _LEGEND_ROWS, scale)
    return _framed([text_line(title + scores, width, large, INK), panels, legend])


def _framed(parts: Sequence[Image]) -> Image:
    page = join(parts, axis=0, gap=_GAP)
    return np.pad(page, [(_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0)], constant_values=255)


def _headed(panel: Image, text: str, width: int, scale: float) -> Image:
    return join([text_line(text, width, scale, GREY), panel], axis=0, gap=0)


def _legend(
    counts: Sequence[Counts], names: Sequence[str], palette: Palette, width: int, most_rows: int, scale: float
) -> Image:
    """The classes that occur, largest first, as many as fit, with their shares of each map's pixels."""
    shares = np.stack([pixels / max(1, pixels.sum()) for pixels in counts])
    order = [int(label) for label in np.argsort(-shares.sum(0), kind="stable") if shares[:, label].any()]
    columns = max(1, width // round(600 * scale))
    height, cell = _row_height(scale), (width + 2 * _GAP) // columns
    rows = min(most_rows, -(-len(order) // columns))
    shown = order if len(order) <= rows * columns else order[: rows * columns - 1]
    canvas = np.full(((rows + 1) * height, width, 3), 255, np.uint8)
    heading = "share of the pixels" if len(counts) == 1 else "share of the pixels in truth / prediction"
    write_text(canvas, heading, 0, round(0.7 * height), scale, GREY)
    for i, label in enumerate(shown):
        place = canvas[(i % rows + 1) * height :, i // rows * cell :][:height, : cell - 2 * _GAP]
        _legend_entry(place, names[label], palette[label], " / ".join(map(_percent, shares[:, label])), scale)
    if len(shown) < len(order):
        rest = f"and {len(order) - len(shown)} more"
        write_text(canvas, rest, (columns - 1) * cell, round((rows + 0.7) * height), scale, GREY)
    return canvas


def _legend_entry(place: Image, name: str, colour: NDArray[np.uint8], share: str, scale: float) -> None:
    height, width = place.shape[:2]
    inset = round(0.2 * height)
    place[inset : height - inset, : height - 2 * inset] = colour
    left, right = height, width - text_width(share, scale)
    write_text(place, shorten(name, right - left - _GAP, scale), left, round(0.7 * height), scale, INK)
    write_text(place, share, right, round(0.7 * height), scale, GREY)


def _percent(share: float) -> str:
    return "-" if share == 0 else "<0.1%" if share < 0.0005 else f"{share:.1%}"


def _scores(metrics: SegmentationMetrics) -> str:
    if not metrics.tensors()["confusion"].any():
        return "no labelled pixels"
    report = metrics.compute()
    return f"pixel accuracy {report.aacc:.1%}, mean IoU {report.miou:.1%}"


def _update(metrics: SegmentationMetrics, predicted: Labels, truth: Labels) -> None:
    metrics.update(*(torch.from_numpy(labels.astype(np.int64)) for labels in (predicted, truth)))


def _check_names(names: Sequence[str], palette: Palette) -> None:
    if len(names) != len(palette):
        raise ValueError(f"expected as many names as colours, got {len(names)} names and {len(palette)} colours")


def _box(image: Image, columns: int, rows: int, widest: int = _WIDEST) -> Box:
    """The size of a panel where so many stand side by side and below each other."""
    height, width = image.shape[:2]
    room = min((widest - (columns - 1) * _GAP) / columns / width, _TALLEST / rows / height)
    scale = min(room, max(1, _LONG_SIDE / max(height, width)))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resized(classes: NDArray[np.uint8], image: Image) -> NDArray[np.uint8]:
    size = image.shape[1], image.shape[0]
    return cv2.resize(classes, size, interpolation=cv2.INTER_NEAREST_EXACT).astype(np.uint8, copy=False)


def _text_scale(width: int) -> float:
    """So that text is legible where a wide picture is shown smaller."""
    return 0.5 * min(max(width / 1000, 1), 1.7)


def _row_height(scale: float) -> int:
    return round(48 * scale)
