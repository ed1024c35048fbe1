"""Pictures hold both panels, the figures and the legend, and fit a page at every size of image."""

from typing import Any

import cv2
import numpy as np
import pytest
from detection_cases import case, found, objects, random_cases

from internimage.tasks import drawing
from internimage.tasks.charts import save
from internimage.tasks.detection.coco_metrics import coco_report
from internimage.tasks.detection.confusion import confusion
from internimage.tasks.detection.overlays import class_colours
from internimage.tasks.detection.pictures import comparison_picture, frame_picture, prediction_picture, sheet
from internimage.tasks.detection.result_charts import confusion_chart, curve_chart
from internimage.tasks.images import Image, read_image

pytestmark = pytest.mark.once

NAMES = ["red cell", "white cell", "platelet"]
SIZES = [(1, 1), (75, 100), (100, 75), (1080, 1920), (2160, 3840), (30, 2000)]


def shows(picture: Image, text: str, scale: float, colour: Any = drawing.INK, thickness: int = 1) -> bool:
    canvas = np.full((120, 3000, 3), 255, np.uint8)
    drawing.write_text(canvas, text, 20, 80, scale, colour, thickness=thickness)
    rows, columns = np.nonzero((canvas < 255).any(2))
    part = canvas[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    if any(a < b for a, b in zip(picture.shape, part.shape, strict=True)):
        return False
    left, top = cv2.minMaxLoc(cv2.matchTemplate(picture, part, cv2.TM_SQDIFF))[2]
    return np.array_equal(picture[top : top + part.shape[0], left : left + part.shape[1]], part)


def example(height: int, width: int) -> tuple[Image, Any]:
    image = np.full((height, width, 3), 128, np.uint8)
    scale = np.array([width, height] * 2)
    boxes = np.array([[0.1, 0.1, 0.4, 0.6], [0.5, 0.2, 0.9, 0.9]]) * scale
    return image, case(objects(boxes, [0, 1]), found(boxes[:1], [0.9], [0]))


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_of_any_image_is_as_large_as_the_image_or_enlarged(size: tuple[int, int]) -> None:
    image, one = example(*size)
    picture = prediction_picture(image, one.found, NAMES, threshold=0.3)
    assert max(picture.shape) >= 640
    assert picture.shape[1] >= size[1]
    assert picture.shape[0] > size[0]
    assert frame_picture(image, one.found, NAMES, threshold=0.3).shape == image.shape
    compared = comparison_picture(one, image, NAMES, threshold=0.3)
    assert 400 <= compared.shape[1] <= 2000
    assert compared.shape[0] <= 1200


def test_the_legend_counts_what_is_above_the_threshold() -> None:
    image = np.full((400, 1000, 3), 90, np.uint8)
    boxes = [[x, 50, x + 60, 110] for x in range(0, 400, 80)]
    detections = found(boxes, [0.9, 0.8, 0.7, 0.4, 0.2], [1, 1, 0, 1, 2])
    picture = prediction_picture(image, detections, NAMES, threshold=0.3)[400:]
    assert shows(picture, "white cell  3", 0.5)
    assert shows(picture, "red cell  1", 0.5)
    assert not shows(picture, "platelet", 0.5)
    assert (picture == class_colours(3)[1]).all(axis=2).sum() == 11 * 11
    nothing = prediction_picture(image, found([], []), NAMES, threshold=0.3)[400:]
    assert shows(nothing, "no objects", 0.5, drawing.GREY)


def test_truth_and_detections_stand_below_their_figures() -> None:
    image, one = example(300, 400)
    picture = comparison_picture(one, image, NAMES, threshold=0.3)
    assert shows(picture, "0.png:  1 found, 1 missed, 0 wrong; F1 67%", 0.6)
    left, right = picture[:, : picture.shape[1] // 2], picture[:, picture.shape[1] // 2 :]
    white = class_colours(3)[1]
    panels = [(panel[60:-60] == white).all(axis=2).sum() for panel in (left, right)]
    assert panels[0] > 500 > panels[1] == 0  # the one that was missed


def test_ignored_objects_are_grey() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    one = case(objects([[50, 50, 200, 200]], [0], [True]), found([], []))
    picture = comparison_picture(one, image, NAMES, threshold=0.3)
    assert not (picture == class_colours(3)[0]).all(axis=2).any()
    assert shows(picture, "0.png:  0 found, 0 missed, 0 wrong; no objects", 0.6)


def test_a_sheet_has_a_column_for_each_group() -> None:
    image, one = example(90, 120)
    both = sheet([("best", [(one, image), (one, image)]), ("worst", [(one, image)])], NAMES, threshold=0.3)
    single = sheet([("best", [(one, image)]), ("worst", [])], NAMES, threshold=0.3)
    assert both is not None
    assert single is not None
    assert both.shape[1] > 1.9 * single.shape[1] - 60
    assert both.shape[0] > 1.7 * single.shape[0]
    assert shows(both, "best: truth, detections", 0.6)
    assert shows(both, "worst: truth, detections", 0.6)
    assert sheet([("best", []), ("worst", [])], NAMES, threshold=0.3) is None


@pytest.mark.parametrize("classes", [1, 3, 40])
def test_charts_of_few_and_of_many_classes_are_drawn(classes: int, tmp_path: Any) -> None:
    cases = random_cases(1, pictures=8, classes=classes)
    names = [f"class {label}" for label in range(classes)]
    report = coco_report(cases, classes, masks=False)
    figure = curve_chart(report, names, report.summary())
    (axes,) = figure.axes
    assert len(axes.lines) == len(report.curves) + (len(report.curves) > 1)
    for line in axes.lines:
        assert np.isfinite(line.get_ydata()).all()
    save(figure, tmp_path / "curves.png")
    counts = confusion(cases, classes, 0.3)
    save(confusion_chart(counts, names, "title"), tmp_path / "confusion.png")
    for name in ("curves", "confusion"):
        assert min(read_image(tmp_path / f"{name}.png").shape[:2]) > 300
