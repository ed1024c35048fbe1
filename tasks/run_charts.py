"""Charts of a training run: its learning curves, and which classes the model confuses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from internimage.tasks.charts import BLUE, GREY, INK, LIGHT, ORANGE, new_figure, style_panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_POINTS = 2000  # of a line
_MOST_CELLS_WITH_TEXT, _MOST_CELLS = 30, 250  # in a row


def learning_curves(rows: Iterable[Mapping[str, Any]], title: str, figures: Mapping[str, str]) -> Figure:
    """Loss and learning rate by step; below them, of the task's figures those that the log has, by epoch.

    Args:
        rows: of a training log, in order, by their keys: "step", "loss" and "lr"; or "epoch" and the task's figures,
            in [0, 1], beside which a figure with "ema_" before its key is of the averaged weights.
            Other keys and rows don't matter. A value that is no finite number is left out.
        title: above the figure.
        figures: shown name of each of the task's figures by its key, such as {"top1": "top-1"}.

    Raises:
        ValueError: no row has a loss.
    """
    rows = list(rows)
    losses, rates = _column(rows, "step", "loss"), _column(rows, "step", "lr")
    if not len(losses):
        raise ValueError(f'learning_curves: expected rows with "step" and a finite "loss", got none in {len(rows)}')
    keys = [key for key in figures if any(key in row for row in rows)]
    figure = new_figure(max(10, 5 * len(keys)), 6.4 if keys else 3.6, title)
    span = max(1, len(keys))  # two panels stand above so many, over the same width
    grid = figure.add_gridspec(2 if keys else 1, 2 * span)
    loss, rate = figure.add_subplot(grid[0, :span]), figure.add_subplot(grid[0, span:])
    _draw_loss(loss, losses)
    _plot(rate, rates, GREY)
    rate.set_ylim(bottom=0)
    rate.yaxis.set_major_formatter("{x:g}")
    style_panel(rate, "learning rate", f"last: {rates[-1, 1]:.3g}" if len(rates) else "", "step")
    for i, key in enumerate(keys):
        _draw_figure(figure.add_subplot(grid[1, 2 * i : 2 * i + 2]), rows, key, f"validation {figures[key]}, %")
    return figure


def _draw_loss(axes: Axes, losses: NDArray[np.float64]) -> None:
    raw = losses[:, 1]
    smooth = gaussian_filter1d(raw, len(raw) / 100)
    _plot(axes, losses, ORANGE, linewidth=0.7, alpha=0.3)
    _plot(axes, np.stack([losses[:, 0], smooth], 1), ORANGE)
    # A single spike must not flatten the rest.
    least, most = min(np.percentile(raw, 0.5), smooth.min()), max(np.percentile(raw, 99.5), smooth.max())
    margin = 0.05 * (most - least) or 0.1
    axes.set_ylim(least - margin, most + margin)
    style_panel(axes, "training loss", f"last, smoothed: {smooth[-1]:.3f}", "step")


def _draw_figure(axes: Axes, rows: Sequence[Mapping[str, Any]], key: str, name: str) -> None:
    best = []
    for column, color, label in ((f"ema_{key}", ORANGE, "averaged weights"), (key, BLUE, "weights")):
        points = _column(rows, "epoch", column)
        if len(points):
            _plot(axes, points * (1, 100), color, label=label)
            best.append(max((value, epoch, color) for epoch, value in points))
    for value, epoch, color in best:
        axes.plot(epoch, 100 * value, color=color, marker="o", markersize=7, markeredgecolor="white", clip_on=False)
    if len(best) > 1:
        axes.legend(loc="lower right", frameon=False, fontsize=9, labelcolor=INK)
    axes.set_ylim(top=min(100.5, axes.get_ylim()[1]))
    style_panel(axes, name, f"best: {max(best)[0]:.2%}, epoch {max(best)[1]:.0f}" if best else "", "epoch")


def _column(rows: Sequence[Mapping[str, Any]], x: str, y: str) -> NDArray[np.float64]:
    """[N, 2], the finite values of a log's column and where they stand."""
    points = [(row[x], row[y]) for row in rows if row.get(x) is not None and row.get(y) is not None]
    array = np.array(points, dtype=np.float64).reshape(-1, 2)
    return array[np.isfinite(array).all(1)]


def _plot(axes: Axes, points: NDArray[np.float64], color: str, *, linewidth: float = 2, **options: Any) -> None:
    """A line of at most 2000 of the points, evenly chosen, the first and the last among them."""
    chosen = np.linspace(0, len(points) - 1, min(len(points), _MOST_POINTS)).round().astype(int)
    marker = "." if len(points) == 1 else None
    axes.plot(*points[chosen].T, color=color, linewidth=linewidth, marker=marker, **options)


def confusion_matrix(matrix: NDArray[np.int64], names: Sequence[str], title: str) -> Figure:
    """Which classes are taken for which: shares of each true class, right ones in blue, wrong ones in orange.

    Up to 30 classes have their names, and in the cells the share in percent above the number of images. Of many
    classes, a cell is the largest share in a square of several.

    Args:
        matrix: [C, C], images by true and predicted class.
        names: of the classes.
        title: above the figure.

    Raises:
        ValueError: the matrix is not [C, C] for C names.
    """
    count = len(names)
    if matrix.shape != (count, count):
        raise ValueError(
            f"confusion_matrix: expected a matrix [{count}, {count}] for {count} names, got {list(matrix.shape)}"
        )
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    with_text = count <= _MOST_CELLS_WITH_TEXT
    side = max(0.56 * count, 4.5) if with_text else 8
    figure = new_figure(side + 1.7, side + 1.7, title)
    axes = figure.subplots()
    block = -(-count // _MOST_CELLS)
    colors = _cell_colors(shares, block)
    reach = len(colors) * block - 0.5
    axes.imshow(colors, interpolation="nearest", extent=(-0.5, reach, reach, -0.5))
    note = "darker: more of the true class"
    if with_text:
        note = "% of the true class, number of images"
        _write_cells(axes, matrix, shares, names)
    elif block > 1:
        note += f" (the most in {block} x {block} cells)"
    axes.set_title(f"{note}; blue right, orange wrong", loc="left", fontsize=9, color=GREY, pad=8)
    axes.set_xlabel("predicted class", fontsize=10, color=INK)
    axes.set_ylabel("true class", fontsize=10, color=INK)
    axes.spines[:].set_color(LIGHT)
    axes.tick_params(colors=INK if with_text else GREY, labelsize=9, length=0)
    return figure


def _cell_colors(shares: NDArray[np.float64], block: int) -> NDArray[np.float64]:
    """RGB of squares of `block` by `block` cells. Wrong shares are small, and shown by their square root."""
    from matplotlib.colors import to_rgb

    count = -(-len(shares) // block)
    padded = np.zeros((count * block,) * 2)
    padded[: len(shares), : len(shares)] = shares
    most = padded.reshape(count, block, count, block).max((1, 3))
    right = np.eye(count, dtype=bool)
    strength = np.where(right, most, np.sqrt(most))[..., None]
    colors: NDArray[np.float64] = 1 - strength * (1 - np.where(right[..., None], to_rgb(BLUE), to_rgb(ORANGE)))
    return colors


def _write_cells(axes: Axes, matrix: NDArray[np.int64], shares: NDArray[np.float64], names: Sequence[str]) -> None:
    places = range(len(names))
    short = [name if len(name) <= 24 else f"{name[:23]}…" for name in names]
    turned = max(map(len, short)) > 4
    axes.set_xticks(places, short, rotation=45 if turned else 0, ha="right" if turned else "center")
    axes.set_yticks(places, [x if row.any() else f"{x} (no images)" for x, row in zip(short, matrix, strict=True)])
    for line in places[1:]:
        axes.axhline(line - 0.5, color=LIGHT, linewidth=0.7)
        axes.axvline(line - 0.5, color=LIGHT, linewidth=0.7)
    for true, predicted in np.argwhere(matrix):
        share = shares[true, predicted]
        percent = "<1" if share < 0.01 else ">99" if 0.99 < share < 1 else f"{100 * share:.0f}"
        color = "white" if share > (0.55 if true == predicted else 0.35) else INK
        for text, size, points, va in ((percent, 10, -2, "bottom"), (f"{matrix[true, predicted]:,}", 6.5, -3, "top")):
            axes.annotate(
                text,
                (predicted, true),
                (0, points),
                textcoords="offset points",
                fontsize=size,
                ha="center",
                va=va,
                color=color,
            ).set_in_layout(False)
