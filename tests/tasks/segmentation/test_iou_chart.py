"""The chart has a bar as long as the IoU of each class, in its colour, and names the classes that have none."""

import numpy as np
import pytest
import torch

from internimage.tasks import charts
from internimage.tasks.images import read_image
from internimage.tasks.segmentation.iou_chart import iou_chart
from internimage.tasks.segmentation.metrics import Report, SegmentationMetrics

pytest.importorskip("matplotlib", reason="charts are an optional part")


def report_of(classes: int, absent: int = 0) -> tuple[Report, list[str], np.ndarray]:
    rng = np.random.default_rng(0)
    true = rng.integers(0, classes - absent, (20, 40 * classes))
    found = np.where(rng.random(true.shape) < 0.6, true, rng.integers(0, classes - absent, true.shape))
    metrics = SegmentationMetrics(classes)
    metrics.update(torch.from_numpy(found), torch.from_numpy(true))
    palette = rng.integers(0, 256, (classes, 3), dtype=np.uint8)
    return metrics.compute(), [f"class {i}" for i in range(classes)], palette


@pytest.mark.parametrize(("classes", "absent", "columns"), [(2, 0, 1), (11, 2, 1), (68, 8, 2)])
def test_the_bars_are_the_ious_best_first_in_the_colours_of_the_classes(classes, absent, columns):
    report, names, palette = report_of(classes, absent)
    figure = iou_chart(report, names, palette, "Chart")
    assert len(figure.axes) == columns
    bars = [
        (names.index(label.get_text()), bar.get_width(), bar.get_facecolor()[:3])
        for axes in figure.axes
        for label, bar in zip(axes.get_yticklabels(), axes.patches, strict=True)
    ]
    assert sorted(label for label, *_ in bars) == list(range(classes - absent))
    for label, length, colour in bars:
        assert length == pytest.approx(100 * report.per_class[label].iou)
        np.testing.assert_allclose(colour, palette[label] / 255)
    lengths = [length for _, length, _ in bars]
    assert lengths == sorted(lengths, reverse=True)
    for axes in figure.axes:
        np.testing.assert_allclose(axes.lines[0].get_xdata(), 100 * report.miou)
    note = figure.get_supxlabel()
    listed = [f"class {i}" for i in range(classes - absent, classes)]
    more = "; and 2 more" if absent == 8 else ""
    assert note == (f"neither labelled nor predicted: {'; '.join(listed[:6])}{more}" if absent else "")


def test_the_chart_is_saved_as_a_picture_with_every_number_beside_its_bar(tmp_path):
    report, names, palette = report_of(6)
    figure = iou_chart(report, names, palette, "Chart")
    charts.save(figure, tmp_path / "chart.png")
    assert read_image(tmp_path / "chart.png").std() > 10
    axes = figure.axes[0]
    for bar, number in zip(axes.patches, axes.texts, strict=True):
        assert number.get_text() == f"{bar.get_width():.1f}"
        assert not bar.get_window_extent().overlaps(number.get_window_extent())


def test_names_and_colours_must_be_as_many_as_classes():
    report, names, palette = report_of(4)
    with pytest.raises(ValueError, match="expected 4 names and colours, one a class, got 3 names and 4 colours"):
        iou_chart(report, names[:3], palette, "Chart")
    with pytest.raises(ValueError, match="got 4 names and 2 colours"):
        iou_chart(report, names, palette[:2], "Chart")
