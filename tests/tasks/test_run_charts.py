"""Learning curves and confusion matrices show what the log and the matrix hold, and stay legible at any size."""

import math
from typing import Any

import numpy as np
import pytest

from internimage.tasks import charts, run_charts
from internimage.tasks.images import read_image

pytestmark = pytest.mark.once

matplotlib = pytest.importorskip("matplotlib", reason="charts are an optional part")


NAMES = ["cat", "dog", "a very long name of a class"]
FIGURES = {"top1": "top-1", "top5": "top-5"}
MATRIX = np.array([[9, 1, 0], [0, 0, 0], [500, 0, 500]])


def log(steps: int, epochs: int, averaged: bool = False) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"step": step, "epoch": step / 10, "loss": 2 + math.exp(-step / 50), "lr": 1e-3 * step / steps}
        for step in range(1, steps + 1)
    ]
    for epoch in range(1, epochs + 1):
        row: dict[str, Any] = {"step": epoch * 10, "epoch": epoch, "top1": 0.1 * epoch, "top5": 0.15 * epoch}
        rows.append(row | ({"ema_top1": 0.11 * epoch, "ema_top5": 0.16 * epoch} if averaged else {}))
    return rows


def test_the_curves_hold_the_values_of_the_log(tmp_path):
    rows = log(200, 5, averaged=True)
    figure = run_charts.learning_curves(rows, "Digits", FIGURES)
    loss, rate, top1, top5 = figure.axes
    np.testing.assert_allclose(loss.lines[0].get_xydata(), [(row["step"], row["loss"]) for row in rows[:200]])
    np.testing.assert_allclose(rate.lines[0].get_xydata(), [(r["step"], r["lr"]) for r in rows[:200]])
    for axes, key in ((top1, "top1"), (top5, "top5")):
        for line, column in zip(axes.lines[:2], (f"ema_{key}", f"{key}"), strict=True):
            expected = [(row["epoch"], 100 * row[column]) for row in rows[200:]]
            np.testing.assert_allclose(line.get_xydata(), expected)
    assert top1.get_title("right") == "best: 55.00%, epoch 5"
    assert [text.get_text() for text in top1.get_legend().get_texts()] == ["averaged weights", "weights"]
    charts.save(figure, tmp_path / "curves.png")
    assert read_image(tmp_path / "curves.png").std() > 10


def test_without_averaged_weights_or_validation_their_parts_are_left_out():
    assert run_charts.learning_curves(log(20, 2), "Digits", FIGURES).axes[2].get_legend() is None
    assert len(run_charts.learning_curves(log(20, 0), "Digits", FIGURES).axes) == 2


@pytest.mark.parametrize("count", [1, 3])
def test_a_task_says_which_figures_are_drawn_and_each_has_its_panel(count):
    figures = dict([("miou", "mean IoU"), ("macc", "mean accuracy"), ("aacc", "pixel accuracy")][:count])
    rows = log(20, 0) + [
        {"epoch": e, "top1": 0.9, **{key: e / 10 + i / 20 for i, key in enumerate(figures)}, "ema_miou": e / 9}
        for e in (1, 2, 3)
    ]
    figure = run_charts.learning_curves(rows, "Maps", figures | {"other": "not in the log"})
    panels = figure.axes[2:]
    assert [axes.get_title("left") for axes in panels] == [f"validation {name}, %" for name in figures.values()]
    for i, axes in enumerate(panels):
        np.testing.assert_allclose(
            axes.lines[1 if i == 0 else 0].get_ydata(), [100 * (e / 10 + i / 20) for e in (1, 2, 3)]
        )
    assert [axes.get_legend() is None for axes in panels] == [False] + [True] * (count - 1)
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    for axes in panels:
        titles = {axes.get_title(side) for side in ("left", "right")}
        texts = [text for text in axes.findobj(matplotlib.text.Text) if text.get_text() in titles]
        assert len(texts) == 2
        assert sum(text.get_window_extent().width for text in texts) < axes.bbox.width - 10


def test_a_long_log_is_thinned_and_keeps_its_ends():
    rows = log(9001, 0)
    for axes in run_charts.learning_curves(rows, "Long", FIGURES).axes:
        for line in axes.lines:
            steps = line.get_xdata()
            assert len(steps) == 2000
            assert (steps[0], steps[-1]) == (1, 9001)


def test_the_smooth_line_is_close_to_the_trend_of_noise():
    rng = np.random.default_rng(0)
    trend = 2 + np.exp(-np.arange(2000) / 400)
    noisy = trend + rng.normal(scale=0.3, size=2000)
    rows = [{"step": step, "loss": loss, "lr": 1e-3} for step, loss in enumerate(noisy)]
    raw, smooth = run_charts.learning_curves(rows, "Noise", FIGURES).axes[0].lines
    np.testing.assert_allclose(raw.get_ydata(), noisy)
    assert np.abs(smooth.get_ydata() - trend).max() < 0.15


def test_a_spike_does_not_flatten_the_rest_and_what_is_not_finite_is_left_out(tmp_path):
    rows = log(400, 1)
    rows[50]["loss"], rows[60]["loss"], rows[70]["loss"] = 1000.0, math.nan, None
    rows.append({"step": 500, "note": "of something else"})
    figure = run_charts.learning_curves(rows, "Spike", FIGURES)
    axes = figure.axes[0]
    assert len(axes.lines[0].get_xdata()) == 398
    assert np.isfinite(axes.lines[1].get_ydata()).all()
    assert axes.get_ylim()[1] < 150
    charts.save(figure, tmp_path / "curves.png")


@pytest.mark.parametrize("rows", [log(1, 1), log(1, 0), [*log(2, 0), {"epoch": 1, "top1": None, "top5": None}]])
def test_the_shortest_logs_make_curves_too(rows, tmp_path):
    figure = run_charts.learning_curves(rows, "Short", FIGURES)
    low, high = figure.axes[0].get_xlim()
    assert low < 1 < high
    charts.save(figure, tmp_path / "curves.png")


@pytest.mark.parametrize("rows", [[], log(0, 2), [{"step": 1, "loss": math.nan, "lr": 1.0}]])
def test_a_log_without_a_loss_is_refused(rows):
    with pytest.raises(ValueError, match='expected rows with "step" and a finite "loss", got none in'):
        run_charts.learning_curves(rows, "Nothing", FIGURES)


def cells(figure: Any) -> dict[tuple[int, int], list[str]]:
    """The texts in the cells, by true and predicted class."""
    found: dict[tuple[int, int], list[str]] = {}
    for text in figure.axes[0].texts:
        predicted, true = text.xy
        found.setdefault((true, predicted), []).append(text.get_text())
    return found


def test_the_cells_of_a_small_matrix_have_shares_and_counts(tmp_path):
    figure = run_charts.confusion_matrix(MATRIX, NAMES, "Animals: 51% right")
    assert cells(figure) == {
        (0, 0): ["90", "9"],
        (0, 1): ["10", "1"],
        (2, 0): ["50", "500"],
        (2, 2): ["50", "500"],
    }
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "cat",
        "dog (no images)",
        "a very long name of a c…",
    ]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog", "a very long name of a c…"]
    charts.save(figure, tmp_path / "confusion.png")
    assert read_image(tmp_path / "confusion.png").std() > 10


def test_no_share_is_rounded_to_none_or_to_all():
    shares = cells(run_charts.confusion_matrix(np.array([[999, 1], [0, 5]]), ["a", "b"], "Rounding"))
    assert shares == {(0, 0): [">99", "999"], (0, 1): ["<1", "1"], (1, 1): ["100", "5"]}


def test_right_cells_are_blue_wrong_ones_orange_and_empty_ones_white():
    image = run_charts.confusion_matrix(MATRIX, NAMES, "Colours").axes[0].images[0].get_array()
    blue, orange = (np.array(matplotlib.colors.to_rgb(color)) for color in (charts.BLUE, charts.ORANGE))
    np.testing.assert_allclose(image[0, 0], 1 - 0.9 * (1 - blue))
    np.testing.assert_allclose(image[2, 0], 1 - math.sqrt(0.5) * (1 - orange))
    np.testing.assert_allclose(image[1], 1)


def test_texts_lie_inside_their_cells():
    count = 30
    matrix = np.diag(np.full(count, 98765))
    matrix[-1] = 12345
    figure = run_charts.confusion_matrix(matrix, [f"class {i}" for i in range(count)], "Full")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    for text in axes.texts:
        (left, bottom), (right, top) = axes.transData.inverted().transform(text.get_window_extent())
        predicted, true = text.xy
        assert predicted - 0.5 < left < right < predicted + 0.5
        assert true - 0.5 < top < bottom < true + 0.5


@pytest.mark.parametrize(("count", "block"), [(31, 1), (250, 1), (251, 2), (1000, 4)])
def test_a_large_matrix_has_no_text_and_loses_no_confusion(count, block, tmp_path):
    matrix = np.diag(np.full(count, 9))
    matrix[0, count - 1] = 1
    figure = run_charts.confusion_matrix(matrix, [str(i) for i in range(count)], "Many")
    axes = figure.axes[0]
    assert not axes.texts
    image = axes.images[0].get_array()
    cells = -(-count // block)
    assert image.shape == (cells, cells, 3)
    coloured = {(int(row), int(column)) for row, column in np.argwhere((image < 1).any(2))}
    assert coloured == {(i, i) for i in range(cells)} | {(0, cells - 1)}
    charts.save(figure, tmp_path / "confusion.png")
    assert read_image(tmp_path / "confusion.png").shape == (1164, 1164, 3)


def test_a_matrix_that_does_not_fit_the_names_is_refused():
    with pytest.raises(ValueError, match=r"expected a matrix \[2, 2\] for 2 names, got \[3, 3\]"):
        run_charts.confusion_matrix(MATRIX, ["a", "b"], "Wrong")
