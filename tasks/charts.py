"""Charts, drawn with matplotlib (an optional part) without a display and without its global state."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.images import Image
from internimage.tasks.sampling import SamplingPoints

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY, LIGHT, BLUE, ORANGE, RED = "#1f2328", "#6e7781", "#d0d7de", "#0969da", "#e8590c", "#cf222e"
_DPI = 120


def require_matplotlib() -> None:
    """Find out before a long computation whether charts can be drawn after it.

    Raises:
        ImportError: matplotlib is missing; the message has the command that installs it.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'charts are drawn with matplotlib, which is not installed; run: pip install "internimage[demo]"'
        ) from error


def save(figure: Figure, path: str | PathLike[str]) -> None:
    """Write a figure as a picture file of the format of the path's suffix."""
    figure.savefig(path, dpi=_DPI, facecolor="white")


def new_figure(width: float, height: float, title: str) -> Figure:
    """A figure of so many inches with a title, that belongs to nobody else: no pyplot, no display."""
    require_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    return figure


def style_panel(axes: Axes, name: str, note: str, xlabel: str) -> None:
    """The look of a panel with lines that are drawn already; `note` stands at the right of the panel's name."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title(name, loc="left", fontsize=10, color=INK)
    axes.set_title(note, loc="right", fontsize=10, color=GREY)
    axes.set_xlabel(xlabel, fontsize=9, color=GREY)
    axes.grid(axis="y", color=LIGHT, linewidth=0.7)
    axes.tick_params(colors=GREY, labelsize=9, length=0)
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LIGHT)
    axes.margins(x=0.02)
    left, right = axes.get_xlim()
    if right - left < 1:  # one point
        axes.set_xlim(left - 1, right + 1)


def training_curve(losses: Sequence[float], accuracies: Sequence[float], title: str) -> Figure:
    """Training loss and held-out accuracy (in [0, 1]) after each epoch, side by side."""
    figure = new_figure(9, 3.6, title)
    left, right = figure.subplots(1, 2)
    epochs = range(1, len(losses) + 1)
    left.plot(epochs, losses, color=ORANGE, linewidth=2)
    left.set_ylim(bottom=0)
    right.plot(epochs, [100 * accuracy for accuracy in accuracies], color=BLUE, linewidth=2)
    right.set_ylim(max(0, 100 * min(accuracies) - 3), 101)
    style_panel(left, "training loss", f"last: {losses[-1]:.3f}", "epoch")
    style_panel(right, "accuracy on held-out images, %", f"last: {accuracies[-1]:.2%}", "epoch")
    return figure


def prediction_sheet(
    images: Sequence[Image],
    labels: Sequence[int],
    predictions: Sequence[int],
    probabilities: Sequence[float],
    names: Sequence[str],
    title: str,
    columns: int = 12,
) -> Figure:
    """A contact sheet of pictures under their predicted names, errors framed in red with the true name.

    Args:
        images: uint8 [H, W, 3] each.
        labels: the true class of each.
        predictions: the predicted class of each.
        probabilities: of the predicted classes.
        names: of the classes.
        title: above the sheet.
        columns: pictures in a row.
    """
    rows = -(-len(images) // columns)
    figure = new_figure(0.85 * columns, 1.12 * rows + 0.7, title)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, image, label, prediction, probability in zip(
        grid, images, labels, predictions, probabilities, strict=False
    ):
        axes.set_axis_on()
        axes.imshow(image, interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        wrong = label != prediction
        axes.spines[:].set_color(RED if wrong else LIGHT)
        axes.spines[:].set_linewidth(3 if wrong else 0.7)
        caption = f"{names[prediction]}, not {names[label]}" if wrong else names[prediction]
        axes.set_title(caption, fontsize=9, color=RED if wrong else INK, pad=3, fontweight="bold" if wrong else None)
        axes.set_xlabel(f"{probability:.0%}", fontsize=7, color=RED if wrong else GREY, labelpad=2)
    return figure


def sampling_figure(rows: Sequence[tuple[Image, Sequence[SamplingPoints]]], title: str) -> Figure:
    """Where one output location of each stage samples the image: the regular grid, and what was learned instead.

    Args:
        rows: each a picture uint8 [H, W, 3] and its points, from `trace_sampling`, one panel for each.
        title: above the figure.
    """
    columns = max(len(points) for _, points in rows)
    figure = new_figure(2.7 * columns + 0.8, 2.7 * len(rows) + 1.0, title)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    heaviest = max(float(panel.weights.max()) for _, panels in rows for panel in panels)
    dots: Any = None
    for row, (axes_row, (image, panels)) in enumerate(zip(grid, rows, strict=True)):
        for axes, panel in zip(axes_row, panels, strict=True):
            dots = _draw_points(axes, image, panel, heaviest)
            if row == 0:
                axes.set_title(panel.title, fontsize=10, color=INK, pad=6)
    bar = figure.colorbar(dots, ax=grid, shrink=0.6, aspect=28, pad=0.015)
    bar.set_label("weight of the sample (modulation)", fontsize=9, color=GREY)
    bar.ax.tick_params(colors=GREY, labelsize=8, length=0)
    bar.outline.set_visible(False)
    handles = [
        _marker("*", BLUE, BLUE, 13, "output location"),
        _marker("s", "none", INK, 6, "regular 3x3 grid, as a plain convolution samples"),
        _marker("o", ORANGE, "white", 9, "learned points of all groups; larger and darker = heavier"),
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=3, frameon=False, fontsize=9, labelcolor=INK)
    return figure


def _draw_points(axes: Axes, image: Image, panel: SamplingPoints, heaviest: float) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    height, width = image.shape[:2]
    pale = 255 - (255 - image.astype(np.float32)) * 0.45  # so that the dots stand out
    axes.imshow(pale.astype(np.uint8), interpolation="nearest", zorder=0)
    axes.set_facecolor("#f6f8fa")
    margin = 0.16 * max(height, width)
    axes.set_xlim(-margin, width + margin)
    axes.set_ylim(height + margin, -margin)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    for group in panel.points:
        for (x0, y0), (x1, y1) in zip(panel.grid, group, strict=True):
            if -margin < x1 < width + margin and -margin < y1 < height + margin:
                axes.plot([x0, x1], [y0, y1], color=GREY, linewidth=0.6, alpha=0.45, zorder=1)
    axes.scatter(
        panel.grid[:, 0],
        panel.grid[:, 1],
        s=26,
        marker="s",
        facecolors="none",
        edgecolors=INK,
        linewidths=1.1,
        zorder=2,
    )
    points: NDArray[np.float64] = panel.points.reshape(-1, 2)
    weights = panel.weights.ravel()
    order = np.argsort(weights)  # heavy points lie on top
    dots = axes.scatter(
        points[order, 0],
        points[order, 1],
        s=10 + 130 * weights[order] / heaviest,
        c=weights[order],
        cmap=LinearSegmentedColormap.from_list("weights", ["#ffd98a", "#f59f00", ORANGE, "#8f1d14"]),
        vmin=0,
        vmax=heaviest,
        edgecolors="white",
        linewidths=0.6,
        zorder=3,
    )
    inside = (np.abs(points - (width / 2, height / 2)) < (width / 2 + margin, height / 2 + margin)).all(1)
    if not inside.all():
        note = f"{(~inside).sum()} of {len(points)} points lie further out"
        axes.text(0.03, 0.03, note, transform=axes.transAxes, fontsize=8, color=GREY)
    x, y = panel.location
    axes.scatter(x, y, s=150, marker="*", color=BLUE, edgecolors="white", linewidths=0.9, zorder=4)
    return dots


def _marker(shape: str, face: str, edge: str, size: float, label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="", marker=shape, mfc=face, mec=edge, markersize=size, label=label)
