"""Charts are picture files of the expected content, need no display, and touch no global state of matplotlib."""

import sys

import numpy as np
import pytest

from internimage.tasks import charts
from internimage.tasks.images import read_image
from internimage.tasks.sampling import SamplingPoints

pytestmark = pytest.mark.once

matplotlib = pytest.importorskip("matplotlib", reason="charts are an optional part")

NAMES = ["cat", "dog", "cow"]


def picture(seed: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def points(groups: int = 2, shift: float = 0.0) -> SamplingPoints:
    rng = np.random.default_rng(groups)
    grid = np.stack(np.meshgrid([4.0, 8.0, 12.0], [4.0, 8.0, 12.0], indexing="ij"), -1).reshape(9, 2)
    weights = rng.dirichlet(np.ones(9), groups)
    return SamplingPoints("stage 1", (8.0, 8.0), grid, grid + rng.normal(size=(groups, 9, 2)) + shift, weights)


def test_the_curve_shows_every_epoch(tmp_path):
    figure = charts.training_curve([2.0, 1.0, 0.5], [0.5, 0.9, 0.97], "Digits")
    loss, accuracy = (axes.lines[0].get_ydata() for axes in figure.axes)
    np.testing.assert_allclose(loss, [2.0, 1.0, 0.5])
    np.testing.assert_allclose(accuracy, [50, 90, 97])
    assert figure.axes[1].get_title("right") == "last: 97.00%"
    charts.save(figure, tmp_path / "curve.png")
    assert read_image(tmp_path / "curve.png").shape == (432, 1080, 3)


def test_one_epoch_makes_a_curve_too(tmp_path):
    charts.save(charts.training_curve([2.0], [0.0], "Digits"), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


@pytest.mark.parametrize("count", [1, 5, 14])
def test_exactly_the_errors_are_framed_and_named(tmp_path, count):
    labels = [i % 3 for i in range(count)]
    predictions = [(label + (i % 4 == 3)) % 3 for i, label in enumerate(labels)]
    images = [picture(i) for i in range(count)]
    figure = charts.prediction_sheet(images, labels, predictions, [0.5] * count, NAMES, "Sheet", columns=4)
    red = matplotlib.colors.to_rgba(charts.RED)
    framed = [i for i, axes in enumerate(figure.axes[:count]) if axes.spines["left"].get_edgecolor() == red]
    assert framed == [i for i in range(count) if labels[i] != predictions[i]]
    for axes, label, prediction in zip(figure.axes, labels, predictions, strict=False):
        wrong = f"{NAMES[prediction]}, not {NAMES[label]}"
        assert axes.get_title() == (wrong if label != prediction else NAMES[prediction])
    for axes, image in zip(figure.axes, images, strict=False):
        np.testing.assert_array_equal(axes.images[0].get_array(), image)
    charts.save(figure, tmp_path / "sheet.png")
    assert read_image(tmp_path / "sheet.png").shape[1] == 408


def test_the_sampling_figure_has_a_dot_for_every_tap_and_a_square_for_every_grid_place(tmp_path):
    rows = [(picture(1, 17), [points(1), points(2), points(4)]), (picture(2, 17), [points(1), points(3), points(8)])]
    figure = charts.sampling_figure(rows, "Points")
    panels = [panel for _, row in rows for panel in row]
    for axes, panel in zip(figure.axes, panels, strict=False):
        squares, dots, star = (collection.get_offsets() for collection in axes.collections)
        np.testing.assert_allclose(squares, panel.grid)
        assert sorted(map(tuple, dots.tolist())) == sorted(map(tuple, panel.points.reshape(-1, 2).tolist()))
        np.testing.assert_allclose(star, [panel.location])
        sizes, weights = axes.collections[1].get_sizes(), axes.collections[1].get_array()
        assert (np.diff(sizes) >= 0).all()  # the heaviest is drawn last and largest
        np.testing.assert_allclose(weights, np.sort(panel.weights.ravel()))
    charts.save(figure, tmp_path / "points.png")
    assert read_image(tmp_path / "points.png").std() > 10


def test_points_out_of_view_are_counted():
    figure = charts.sampling_figure([(picture(1, 17), [points(2), points(2, shift=1000.0)])], "Points")
    assert [text.get_text() for text in figure.axes[0].texts] == []
    assert [text.get_text() for text in figure.axes[1].texts] == ["18 of 18 points lie further out"]


def test_drawing_leaves_matplotlibs_settings_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    pyplot_was_loaded = "matplotlib.pyplot" in sys.modules
    charts.save(charts.training_curve([2.0, 1.0], [0.5, 0.9], "Digits"), tmp_path / "curve.png")
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == pyplot_was_loaded


def test_without_matplotlib_the_error_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "internimage\[demo\]"'):
        charts.training_curve([1.0], [0.5], "Digits")
