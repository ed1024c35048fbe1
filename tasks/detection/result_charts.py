"""Charts of a detector's results, drawn with matplotlib (an optional part)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.charts import BLUE, GREY, INK, LIGHT, new_figure
from internimage.tasks.detection.average_precision import Curve
from internimage.tasks.detection.overlays import class_colours
from internimage.tasks.detection.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_NAMED = 12  # curves, and numbers in a row of the matrix
_LONGEST_NAME = 20


def curve_chart(report: Report, names: Sequence[str], title: str) -> Figure:
    """Precision over recall at IoU 0.5: of each class in its colour where they are few, else their mean over all.

    Args:
        report: of the classes.
        names: of the classes.
        title: above the chart.
    """
    figure = new_figure(7.5, 5.2, title)
    axes = figure.subplots()
    colours = class_colours(len(names)) / 255
    few = len(report.curves) <= _MOST_NAMED
    for label, curve in report.curves.items():
        recall, precision = _steps(curve)
        colour = tuple(colours[label]) if few else GREY
        axes.step(
            recall, precision, where="pre", color=colour, linewidth=1.8 if few else 0.6, alpha=1 if few else 0.35,
            label=_short(names[label]) if few else None,
        )  # fmt: skip
    if len(report.curves) > 1:
        recalls = np.linspace(0, 100, 101)
        mean = np.mean([_at(_steps(curve), recalls) for curve in report.curves.values()], axis=0)
        axes.plot(recalls, mean, color=INK if few else BLUE, linewidth=2.2, label=f"mean of {len(report.curves)}")
    axes.legend(loc="lower left", fontsize=9, frameon=False, labelcolor=INK)
    axes.set_xlim(0, 101)
    axes.set_ylim(0, 101)
    _style(axes, "recall, %", "precision at IoU 0.5, %")
    axes.grid(color=LIGHT, linewidth=0.7)
    return figure


def confusion_chart(counts: NDArray[np.int64], names: Sequence[str], title: str) -> Figure:
    """What objects of each class are found as: shares of the rows; classes that never occur are left out.

    Args:
        counts: int64 [C + 1, C + 1], see `confusion`.
        names: of the C classes.
        title: above the chart.
    """
    occurs = (counts[:-1].sum(axis=1) > 0) | (counts[:, :-1].sum(axis=0) > 0)
    chosen = np.flatnonzero(np.append(occurs, True))
    part = counts[np.ix_(chosen, chosen)]
    shares = part / np.maximum(part.sum(axis=1, keepdims=True), 1)
    many = len(chosen) > _MOST_NAMED + 1
    side = 1.8 + (0.19 if many else 0.62) * len(chosen)
    figure = new_figure(max(5.0, side + 1), max(4.4, side + 0.6), title)
    axes = figure.subplots()
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    if not many:
        for (row, column), count in np.ndenumerate(part):
            if count:
                colour = "white" if shares[row, column] > 0.55 else INK
                axes.text(column, row, f"{count}", ha="center", va="center", fontsize=9, color=colour)
    texts = [_short(name) for name in (*names, "")]
    axes.set_xticks(range(len(chosen)), [*(texts[i] for i in chosen[:-1]), "missed"], rotation=90)
    axes.set_yticks(range(len(chosen)), [*(texts[i] for i in chosen[:-1]), "nothing"])
    _style(axes, "found as", "object")
    axes.tick_params(labelsize=6 if many else 9, colors=INK)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=28)
    bar.set_label("share of the row, %", fontsize=9, color=GREY)
    bar.ax.tick_params(colors=GREY, labelsize=8, length=0)
    bar.outline.set_visible(False)
    return figure


def _steps(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The best precision at no less recall, from recall 0 on to where the detections end, in percent."""
    best = np.maximum.accumulate(curve.precision[::-1])[::-1]
    first = best[:1] if len(best) else np.zeros(1)
    return 100 * np.append(0, curve.recall), 100 * np.append(first, best)


def _at(steps: tuple[NDArray[np.float64], NDArray[np.float64]], recalls: NDArray[np.float64]) -> NDArray[np.float64]:
    recall, precision = steps
    return np.append(precision, 0)[np.searchsorted(recall, recalls - 1e-9)]


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _style(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set_xlabel(xlabel, fontsize=9, color=GREY)
    axes.set_ylabel(ylabel, fontsize=9, color=GREY)
    axes.tick_params(colors=GREY, labelsize=9, length=0)
    axes.spines[:].set_visible(False)
