"""The metrics are those of counting pixel by pixel, however the images are split into batches and processes."""

import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn import metrics as sklearn_metrics
from torch import Tensor

from internimage.tasks.segmentation.metrics import Report, SegmentationMetrics


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, Tensor, Tensor]:
    """The number of classes, and predictions and labels of some images, with ignored pixels."""
    classes = draw(st.integers(1, 6))
    shape = draw(arrays.array_shapes(min_dims=2, max_dims=3, max_side=5))
    predictions = draw(arrays.arrays(np.int64, shape, elements=st.integers(0, classes - 1)))
    labels = draw(arrays.arrays(np.uint8, shape, elements=st.sampled_from([*range(classes), 255])))
    return classes, torch.from_numpy(predictions), torch.from_numpy(labels)


def some_maps(classes: int, seed: int = 0, shape: tuple[int, ...] = (4, 12, 9)) -> tuple[Tensor, Tensor]:
    """Predictions that are right about half of the time, and labels with ignored pixels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, shape)
    predictions = np.where(rng.random(shape) < 0.5, labels, rng.integers(0, classes, shape))
    labels[rng.random(shape) < 0.2] = 255
    return torch.from_numpy(predictions), torch.from_numpy(labels.astype(np.uint8))


def measured(classes: int, *batches: tuple[Tensor, Tensor]) -> SegmentationMetrics:
    metrics = SegmentationMetrics(classes)
    for predictions, labels in batches:
        metrics.update(predictions, labels)
    return metrics


def counted_by_hand(classes: int, predictions: Tensor, labels: Tensor) -> dict[str, Any]:
    """Pixel by pixel, class by class, in exact fractions."""
    pixels = [
        (int(true), int(predicted))
        for true, predicted in zip(labels.numpy().ravel(), predictions.numpy().ravel(), strict=True)
        if true != 255
    ]
    ious, accuracies = [], []
    for label in range(classes):
        hits = sum(true == label and predicted == label for true, predicted in pixels)
        either = sum(true == label or predicted == label for true, predicted in pixels)
        labelled = sum(true == label for true, _ in pixels)
        ious.append(Fraction(hits, either) if either else None)
        accuracies.append(Fraction(hits, labelled) if labelled else None)
    known = [[figure for figure in figures if figure is not None] for figures in (ious, accuracies)]
    return {
        "pixels": len(pixels),
        "iou": ious,
        "accuracy": accuracies,
        "miou": sum(known[0]) / len(known[0]),
        "macc": sum(known[1]) / len(known[1]),
        "aacc": Fraction(sum(true == predicted for true, predicted in pixels), len(pixels)),
    }


@given(cases())
@settings(max_examples=150, deadline=None)
def test_the_report_is_what_counting_by_hand_gives(case: tuple[int, Tensor, Tensor]) -> None:
    classes, predictions, labels = case
    metrics = measured(classes, (predictions, labels))
    if (labels == 255).all():
        with pytest.raises(ValueError, match="no labelled pixel"):
            metrics.compute()
        return
    report, truth = metrics.compute(), counted_by_hand(classes, predictions, labels)
    assert report.pixels == truth["pixels"]
    assert report.aacc == float(truth["aacc"])
    assert report.miou == pytest.approx(float(truth["miou"]), rel=1e-12)
    assert report.macc == pytest.approx(float(truth["macc"]), rel=1e-12)
    for row, iou, accuracy in zip(report.per_class, truth["iou"], truth["accuracy"], strict=True):
        assert row.iou == (None if iou is None else float(iou))
        assert row.accuracy == (None if accuracy is None else float(accuracy))
    assert sum(row.share for row in report.per_class) == pytest.approx(1)


@pytest.mark.parametrize("classes", [2, 7, 150])
def test_the_figures_are_scikit_learns(classes: int) -> None:
    predictions, labels = some_maps(classes, shape=(5, 40, 30))
    report = measured(classes, (predictions, labels)).compute()
    counted = labels != 255
    true, predicted, every = labels[counted].numpy(), predictions[counted].numpy(), np.arange(classes)
    ious = sklearn_metrics.jaccard_score(true, predicted, labels=every, average=None)
    np.testing.assert_allclose([row.iou for row in report.per_class], ious)
    assert report.miou == pytest.approx(ious.mean())
    assert report.macc == pytest.approx(sklearn_metrics.balanced_accuracy_score(true, predicted))
    assert report.aacc == sklearn_metrics.accuracy_score(true, predicted)
    np.testing.assert_array_equal(report.confusion, sklearn_metrics.confusion_matrix(true, predicted, labels=every))
    np.testing.assert_allclose([row.share for row in report.per_class], np.bincount(true) / len(true))


@given(cases(), st.data())
@settings(max_examples=50, deadline=None)
def test_two_parts_summed_in_place_are_one_pass(case: tuple[int, Tensor, Tensor], data: st.DataObject) -> None:
    classes, predictions, labels = case
    cut = data.draw(st.integers(0, len(labels)))
    whole = measured(classes, (predictions, labels))
    mine = measured(classes, (predictions[:cut], labels[:cut]))
    theirs = measured(classes, (predictions[cut:], labels[cut:]))
    for name, tensor in mine.tensors().items():
        tensor += theirs.tensors()[name]
        assert tensor.dtype == torch.int64
        torch.testing.assert_close(tensor, whole.tensors()[name], rtol=0, atol=0)
    if (labels != 255).any():
        assert mine.compute() == whole.compute()


def test_images_of_different_sizes_add_up() -> None:
    maps = [some_maps(4, seed, (3 + seed, 11 - seed)) for seed in range(5)]
    flat = torch.cat([p.ravel() for p, _ in maps]), torch.cat([t.ravel() for _, t in maps])
    assert measured(4, *maps).compute() == measured(4, flat).compute()


def test_more_pixels_than_32_bits_hold_are_counted_exactly() -> None:
    metrics = measured(2)
    metrics.tensors()["confusion"].copy_(torch.tensor([[2**52 + 1, 2**33 + 3], [5, 2**40]]))
    metrics.update(torch.tensor([[0, 1]]), torch.tensor([[0, 0]]))
    report = metrics.compute()
    matrix = np.array([[2**52 + 2, 2**33 + 4], [5, 2**40]])
    np.testing.assert_array_equal(report.confusion, matrix)
    assert report.pixels == 2**52 + 2**33 + 2**40 + 11
    assert report.per_class[1].iou == float(Fraction(2**40, 2**40 + 2**33 + 9))
    assert report.aacc == float(Fraction(2**52 + 2**40 + 2, report.pixels))


def test_a_class_predicted_but_never_labelled_has_iou_0_and_counts() -> None:
    report = measured(4, (torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, 0, 1, 1]]))).compute()
    assert [row.iou for row in report.per_class] == [1, 0.5, 0, None]
    assert [row.accuracy for row in report.per_class] == [1, 0.5, None, None]
    assert [row.share for row in report.per_class] == [0.5, 0.5, 0, 0]
    assert (report.miou, report.macc, report.aacc, report.absent) == (0.5, 0.75, 0.75, [3])
    lines = report.table(["sky", "sea", "sun", "moon"])
    assert "predicted, but never labelled (IoU 0 counts): sun" in lines
    assert "neither labelled nor predicted, left out of the means: moon" in lines


def test_what_is_predicted_at_ignored_pixels_counts_for_nothing() -> None:
    predictions, labels = some_maps(5)
    report = measured(5, (predictions, labels)).compute()
    predictions[labels == 255] = 77  # not even a class
    assert measured(5, (predictions, labels)).compute() == report


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_every_integer_type_does(dtype: torch.dtype) -> None:
    predictions, labels = some_maps(5)
    expected = measured(5, (predictions, labels)).compute()
    assert measured(5, (predictions.to(dtype), labels.to(dtype))).compute() == expected


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 3).long(), "integer predictions and labels, got torch.float32 and"),
        (torch.zeros(2, 3).long(), torch.full((2, 3), math.nan), "and torch.float32; take argmax"),
        (torch.zeros(1, 4, 2, 3).long(), torch.zeros(1, 2, 3).long(), r"one shape, got \[1, 4, 2, 3\] and \[1, 2, 3\]"),
        (torch.zeros(2, 3).long(), torch.zeros(3, 2).long(), "resize the scores"),
        (torch.zeros(1, 2).long(), torch.tensor([[0, 4]]), "labels must be from 0 to 3, or 255 for .*, got 4"),
        (torch.zeros(1, 2).long(), torch.tensor([[0, -1]]), "labels .* got -1"),
        (torch.tensor([[0, 255]]), torch.tensor([[0, 1]]), "predictions must be from 0 to 3, got 255"),
        (torch.tensor([[-1, 0]]), torch.tensor([[0, 1]]), "predictions must be from 0 to 3, got -1"),
    ],
)
def test_bad_batches_are_refused_and_leave_the_matrix_alone(predictions: Tensor, labels: Tensor, message: str) -> None:
    metrics = measured(4, some_maps(4))
    before = metrics.compute()
    with pytest.raises(ValueError, match=message):
        metrics.update(predictions, labels)
    assert metrics.compute() == before


def test_no_labelled_pixel_is_an_error_and_an_empty_batch_is_none() -> None:
    metrics = SegmentationMetrics(3)
    metrics.update(torch.zeros(0, 4, 4, dtype=torch.int64), torch.zeros(0, 4, 4, dtype=torch.int64))
    metrics.update(torch.zeros(2, 2, dtype=torch.int64), torch.full((2, 2), 255))
    with pytest.raises(ValueError, match="no labelled pixel was seen"):
        metrics.compute()


@pytest.mark.parametrize("classes", [0, 256])
def test_the_classes_leave_255_for_ignored_pixels(classes: int) -> None:
    with pytest.raises(ValueError, match=f"num_classes must be from 1 to 255, got {classes}"):
        SegmentationMetrics(classes)


def names_of(report: Report) -> list[str]:
    return [f"class {i}" for i in range(len(report.per_class))]


def test_the_json_has_the_names_and_rebuilds_the_matrix() -> None:
    predictions, labels = some_maps(6)
    report = measured(8, (predictions, labels)).compute()
    stored = json.loads(json.dumps(report.to_json(names_of(report))))
    matrix = np.zeros((8, 8), int)
    for true, predicted, pixels in stored["confusion"]:
        matrix[true, predicted] = pixels
    np.testing.assert_array_equal(matrix, report.confusion)
    assert stored["absent"] == ["class 6", "class 7"]
    assert stored["per_class"][7] == {"name": "class 7", "iou": None, "accuracy": None, "share": 0}
    assert [row["iou"] for row in stored["per_class"]] == [row.iou for row in report.per_class]
    assert [stored[key] for key in ("pixels", "miou", "macc", "aacc")] == [
        report.pixels,
        report.miou,
        report.macc,
        report.aacc,
    ]


def test_the_table_has_every_class_in_order_and_numbers_the_worst() -> None:
    predictions, labels = some_maps(12, shape=(4, 50, 50))
    labels[labels == 10], predictions[predictions == 10] = 2, 1  # so that class 10 is absent, 1 and 2 the worst
    report = measured(12, (predictions, labels)).compute()
    lines = "\n".join(report.table(names_of(report))).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("class  ")) + 1
    rows = [line.split() for line in lines[start : start + 11]]
    assert [int(row[1]) for row in rows] == [i for i in range(12) if i != 10]
    for row in rows:
        scores = report.per_class[int(row[1])]
        expected = [100 * figure for figure in (scores.iou, scores.accuracy, scores.share) if figure is not None]
        np.testing.assert_allclose([float(cell.rstrip("%")) for cell in row[2:5]], expected, atol=0.00501)
    marked = sorted((row[6], int(row[1])) for row in rows if row[5:6] == ["worst"])
    by_iou = sorted((row.iou, label) for label, row in enumerate(report.per_class) if row.iou is not None)
    assert marked == [(str(rank), label) for rank, (_, label) in enumerate(by_iou[:2], 1)]
    assert len({len(line) for line in lines[start : start + 11] if "worst" not in line}) == 1
    assert lines[start + 11 :] == ["neither labelled nor predicted, left out of the means: class 10"]


def test_long_names_keep_the_table_aligned_and_a_wrong_number_of_names_is_refused() -> None:
    report = measured(3, some_maps(3)).compute()
    lines = "\n".join(report.table(["a", "b" * 99, "c"])).splitlines()[-3:]
    assert len({len(line) for line in lines}) == 1
    for method in (report.table, report.to_json):
        with pytest.raises(ValueError, match="expected 3 names, one a class, got 2"):
            method(["a", "b"])
