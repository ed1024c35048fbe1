"""A chart of the classes' IoUs, drawn with matplotlib (an optional part)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from internimage.tasks.charts import GREY, INK, LIGHT, new_figure
from internimage.tasks.reports import list_names
from internimage.tasks.segmentation.metrics import Report
from internimage.tasks.segmentation.overlays import Palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_ROWS = 50  # of bars in a column
_LISTED_ABSENT = 6


def iou_chart(report: Report, names: Sequence[str], palette: Palette, title: str) -> Figure:
    """The IoU of each class as a bar in its colour, best first, and the mean IoU as a line across.

    Args:
        report: of the classes.
        names: of the classes.
        palette: uint8 [C, 3].
        title: above the chart.

    Raises:
        ValueError: more or fewer names or colours than classes.
    """
    if not len(names) == len(palette) == len(report.per_class):
        raise ValueError(
            f"iou_chart: expected {len(report.per_class)} names and colours, one a class, got {len(names)} names and "
            f"{len(palette)} colours"
        )
    bars = [(row.iou, label) for label, row in enumerate(report.per_class) if row.iou is not None]
    bars.sort(key=lambda bar: -bar[0])
    columns = -(-len(bars) // _MOST_ROWS)
    rows = -(-len(bars) // columns)
    figure = new_figure(max(7.5, 4.6 * columns), 0.24 * rows + 1.5, title)
    for i, axes in enumerate(figure.subplots(1, columns, squeeze=False)[0]):
        part = bars[i * rows : (i + 1) * rows]
        _draw_bars(axes, part, names, palette, rows)
        axes.axvline(100 * report.miou, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_title(f"mean IoU {report.miou:.1%}" if i == 0 else "", loc="left", fontsize=10, color=INK)
    if report.absent:
        absent = list_names([names[label] for label in report.absent], _LISTED_ABSENT)
        figure.supxlabel(f"neither labelled nor predicted: {absent}", x=0.01, ha="left", fontsize=9, color=GREY)
    return figure


def _draw_bars(
    axes: Axes, bars: Sequence[tuple[float, int]], names: Sequence[str], palette: Palette, rows: int
) -> None:
    places = np.arange(len(bars))
    colours = [tuple(palette[label] / 255) for _, label in bars]
    # An edge, because a colour can be as light as the page.
    axes.barh(places, [100 * iou for iou, _ in bars], 0.72, color=colours, edgecolor=GREY, linewidth=0.6)
    for place, (iou, _) in enumerate(bars):
        number = axes.text(100 * iou + 1.5, place, f"{100 * iou:.1f}", va="center", fontsize=8, color=GREY)
        number.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})  # over the line of the mean
    short = [names[label] if len(names[label]) <= 24 else f"{names[label][:23]}…" for _, label in bars]
    axes.set_yticks(places, short)
    axes.set_xlim(0, 108)  # room for the number beside a full bar
    axes.set_ylim(rows - 0.4, -0.6)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("IoU, %", fontsize=9, color=GREY)
    axes.tick_params(axis="y", colors=INK, labelsize=9, length=0)
    axes.tick_params(axis="x", colors=GREY, labelsize=9, length=0)
    axes.grid(axis="x", color=LIGHT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(LIGHT)
