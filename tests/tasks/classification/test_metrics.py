"""The metrics are those of scikit-learn and of their plain definitions, however the images are split into batches."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import Tensor

from internimage.tasks.classification.metrics import ClassificationMetrics, Report

INTEGERS = {"images", "top1", "top5", "bin_images", "bin_correct", "confusion"}


def data(images: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits that are right about half of the time and overconfident; the last class has no images."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, max(1, classes - 1), (images,), generator=generator)
    logits = 3 * torch.randn(images, classes, generator=generator)
    logits[torch.arange(images), labels] += 4
    return logits, labels


def measured(logits: Tensor, labels: Tensor, batch: int = 64) -> ClassificationMetrics:
    metrics = ClassificationMetrics(logits.shape[1])
    for start in range(0, len(labels), batch):
        metrics.update(logits[start : start + batch], labels[start : start + batch])
    return metrics


def plain_calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Bin m of 15 holds the confidences in ((m - 1) / 15, m / 15]."""
    members: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    for row, label in zip(logits.double().softmax(1), labels, strict=True):
        confidence = float(row.max())
        m = next(m for m in range(1, 16) if (m - 1) / 15 < confidence <= m / 15)
        members[m - 1].append((confidence, int(row.argmax()) == label))
    gaps = (len(b) * abs(np.mean([c for c, _ in b]) - np.mean([right for _, right in b])) for b in members if b)
    return sum(gaps) / len(labels)


@pytest.mark.parametrize("classes", [3, 7, 40])
def test_the_report_is_scikit_learns(classes: int) -> None:
    logits, labels = data(500, classes)
    report = measured(logits, labels).compute()
    probabilities, true = logits.double().softmax(1).numpy(), labels.numpy()
    predicted, every = probabilities.argmax(1), np.arange(classes)
    assert report.images == 500
    assert report.top1 == sklearn_metrics.accuracy_score(true, predicted)
    assert report.top5 == (
        1 if classes <= 5 else sklearn_metrics.top_k_accuracy_score(true, probabilities, k=5, labels=every)
    )
    recalls = sklearn_metrics.recall_score(true, predicted, labels=every[:-1], average=None)
    np.testing.assert_allclose([row.accuracy for row in report.per_class[:-1]], recalls)
    np.testing.assert_allclose(report.macro, recalls.mean())
    np.testing.assert_allclose(report.nll, sklearn_metrics.log_loss(true, probabilities, labels=every), rtol=1e-6)
    np.testing.assert_array_equal(report.confusion, sklearn_metrics.confusion_matrix(true, predicted, labels=every))


@pytest.mark.parametrize("classes", [2, 30])
def test_the_calibration_error_is_its_plain_definition(classes: int) -> None:
    logits, labels = data(400, classes)
    error = measured(logits, labels).compute().ece
    assert error == pytest.approx(plain_calibration_error(logits, labels), rel=1e-6)
    assert error > 0.02


def test_a_certain_model_is_in_the_last_bin_and_an_undecided_one_in_its_own() -> None:
    certain = torch.tensor([[200.0, 0.0]]).expand(4, 2)
    assert measured(certain, torch.tensor([0, 0, 0, 1])).compute().ece == pytest.approx(0.25)
    undecided = torch.zeros(4, 2)
    assert measured(undecided, torch.tensor([0, 1, 0, 1])).compute().ece == 0


def test_the_split_into_batches_and_processes_does_not_change_the_sums() -> None:
    logits, labels = data(300, 11)
    whole = measured(logits, labels, batch=300).tensors()
    parts = [measured(logits[i::3], labels[i::3], batch=7).tensors() for i in range(3)]
    assert {name for name, tensor in whole.items() if not tensor.is_floating_point()} == INTEGERS
    for name, tensor in whole.items():
        together = parts[2][name] + parts[0][name] + parts[1][name]
        torch.testing.assert_close(together, tensor, rtol=0 if name in INTEGERS else 1e-6, atol=0)


def test_what_another_process_saw_is_added_in_place() -> None:
    logits, labels = data(90, 6)
    mine, theirs = measured(logits[:50], labels[:50]), measured(logits[50:], labels[50:])
    for name, tensor in mine.tensors().items():
        tensor += theirs.tensors()[name]
    both, whole = mine.compute(), measured(logits, labels).compute()
    np.testing.assert_array_equal(both.confusion, whole.confusion)
    assert both.per_class == whole.per_class
    assert (both.images, both.top1, both.top5, both.macro) == (90, whole.top1, whole.top5, whole.macro)
    assert (both.ece, both.nll) == pytest.approx((whole.ece, whole.nll))


def test_padding_counts_for_nothing_whatever_its_logits() -> None:
    logits, labels = data(40, 6)
    padded = torch.cat([logits, torch.full((8, 6), torch.nan)])
    report = measured(padded, torch.cat([labels, torch.full((8,), -1)]), batch=48).compute()
    assert report == measured(logits, labels, batch=48).compute()


def test_of_equal_logits_the_first_class_wins() -> None:
    labels = torch.arange(8)
    report = measured(torch.zeros(8, 8), labels).compute()
    assert (report.top1, report.top5) == (1 / 8, 5 / 8)
    assert report.confusion[:, 0].tolist() == [1] * 8


def test_half_precision_logits_and_small_integer_labels_do() -> None:
    logits, labels = data(64, 9)
    logits = logits.bfloat16()
    assert measured(logits, labels.to(torch.uint8)).compute() == measured(logits.float(), labels).compute()


def test_classes_without_images_are_absent_and_not_in_the_mean() -> None:
    metrics = measured(torch.eye(4)[[0, 0, 2, 1]], torch.tensor([0, 0, 2, 2]))
    report = metrics.compute()
    assert [row.accuracy for row in report.per_class] == [1, None, 0.5, None]
    assert report.absent == [1, 3]
    assert report.macro == 0.75
    assert "classes without images: cow; ant" in report.table(["cat", "cow", "dog", "ant"])


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), r"floating-point logits \[N, 4\], got torch.float32"),
        (torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), "floating-point logits"),
        (torch.zeros(2, 4), torch.zeros(3, dtype=torch.int64), r"integer labels \[2\], one a row"),
        (torch.zeros(2, 4), torch.zeros(2), "got torch.float32"),
        (torch.zeros(2, 4), torch.tensor([0, 4]), "labels must be below 4, or -1 for padding, got 4"),
        (torch.zeros(2, 4), torch.tensor([-2, 1]), "got -2"),
        (torch.tensor([[0.0, 1, 2, 3], [0, math.nan, 0, 0]]), torch.tensor([0, 1]), "hold NaN or infinity"),
        (torch.tensor([[0.0, 1, 2, 3], [0, math.inf, 0, 0]]), torch.tensor([0, 1]), "run it in float32"),
    ],
)
def test_bad_batches_are_refused_and_leave_the_sums_alone(logits: Tensor, labels: Tensor, message: str) -> None:
    metrics = measured(*data(20, 4))
    before = metrics.compute()
    with pytest.raises(ValueError, match=message):
        metrics.update(logits, labels)
    assert metrics.compute() == before


def test_no_image_is_an_error_and_an_empty_batch_is_none() -> None:
    metrics = ClassificationMetrics(3)
    metrics.update(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    metrics.update(torch.zeros(2, 3), torch.tensor([-1, -1]))
    with pytest.raises(ValueError, match="no image was seen"):
        metrics.compute()
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        ClassificationMetrics(0)


def test_many_classes_have_no_matrix_but_all_else() -> None:
    logits, labels = data(30, 2001)
    metrics = measured(logits, labels)
    report = metrics.compute()
    assert report.confusion is None
    assert "confusion" not in metrics.tensors()
    assert report.top1 == sklearn_metrics.accuracy_score(labels, logits.argmax(1))
    assert json.loads(json.dumps(report.to_json()))["confusion"] is None
    assert not any("most confused" in line for line in report.table([f"class {i}" for i in range(2001)]))


def test_the_json_rebuilds_the_matrix() -> None:
    report = measured(*data(200, 8)).compute()
    stored = json.loads(json.dumps(report.to_json()))
    matrix = np.zeros((8, 8), int)
    for true, predicted, images in stored["confusion"]:
        matrix[true, predicted] = images
    np.testing.assert_array_equal(matrix, report.confusion)
    assert stored["absent"] == [7]
    assert stored["per_class"][7] == {"images": 0, "accuracy": None}
    assert stored["top1"] == report.top1


def rows(report: Report, title: str) -> list[str]:
    """The lines of the table's part of that title, without it."""
    lines = "\n".join(report.table([f"class {i}" for i in range(len(report.per_class))])).splitlines()
    start = next(i for i, line in enumerate(lines) if title in line) + 1
    return lines[start : next((i for i in range(start, len(lines)) if not lines[i]), len(lines))]


def test_the_table_of_few_classes_has_them_all() -> None:
    report = measured(*data(300, 8)).compute()
    lines = rows(report, "class      ")
    assert [line.split()[1] for line in lines[:-1]] == list("0123456")
    assert [float(line.split()[-1].rstrip("%")) for line in lines[:-1]] == [
        pytest.approx(100 * row.accuracy, abs=0.005) for row in report.per_class if row.accuracy is not None
    ]
    assert lines[-1] == "classes without images: class 7"


def test_the_table_of_many_classes_has_the_worst_and_the_most_confused() -> None:
    logits, labels = data(2000, 40)
    report = measured(logits, labels).compute()
    shown = [float(line.split()[-1].rstrip("%")) for line in rows(report, "the 10 worst of 40 classes")[:-1]]
    worst = sorted(100 * row.accuracy for row in report.per_class if row.accuracy is not None)[:10]
    np.testing.assert_allclose(shown, worst, atol=0.005)
    wrong = np.array(report.confusion)
    np.fill_diagonal(wrong, 0)
    pairs = [line.split() for line in rows(report, "most confused")]
    assert [int(words[-1]) for words in pairs] == sorted(wrong.ravel(), reverse=True)[:10]
    assert all(wrong[int(words[1]), int(words[3])] == int(words[4]) for words in pairs)


def test_a_faultless_model_has_no_confusions_to_show() -> None:
    report = measured(10 * torch.eye(3), torch.arange(3)).compute()
    assert (report.top1, report.macro, report.top5) == (1, 1, 1)
    assert not any("most confused" in line for line in report.table(["a", "b", "c"]))
    with pytest.raises(ValueError, match="expected 3 names, one a class, got 2"):
        report.table(["a", "b"])
