"""How well a classifier does: accuracy, calibration and confusion, from sums that add up over batches and processes.

metrics = ClassificationMetrics(num_classes=1000)
for images, labels in batches:
    metrics.update(model(images), labels)
print(metrics.compute().table(names))
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from internimage.tasks.reports import NAME_WIDTH, fit_name, list_names, matrix_entries

IGNORED = -1  # the label of padding

_BINS = 15  # of confidence, equally wide
_LARGEST_MATRIX = 2000  # classes; a matrix of 21841 would take 3.8 GB
_SHOWN_CLASSES = 30
_SHOWN_WORST = 10


@dataclass(frozen=True)
class ClassAccuracy:
    """How one class fares. The accuracy, in [0, 1], is None where no image of the class was seen."""

    images: int
    accuracy: float | None


@dataclass(frozen=True)
class Report:
    """What `ClassificationMetrics` found. Accuracies and calibration error are in [0, 1], not in percent.

    Attributes:
        images: seen, without padding.
        top1: share of images whose best class is the true one.
        top5: share of images whose true class is among the best five, or among all where there are fewer.
        macro: mean of the accuracies of the classes that have images.
        ece: expected calibration error over 15 equally wide bins (Guo et al. 2017, arXiv 1706.04599, section 2).
        nll: mean negative log likelihood of the true classes, in nats.
        per_class: by label.
        confusion: int64 [C, C], images by true and predicted class; None above 2000 classes.
    """

    images: int
    top1: float
    top5: float
    macro: float
    ece: float
    nll: float
    per_class: tuple[ClassAccuracy, ...]
    confusion: NDArray[np.int64] | None = field(repr=False, compare=False)

    @property
    def absent(self) -> list[int]:
        """The labels of the classes without images."""
        return [label for label, row in enumerate(self.per_class) if row.accuracy is None]

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, lists and dictionaries; the matrix as triples (true label, predicted label, images)."""
        return {
            "images": self.images,
            "top1": self.top1,
            "top5": self.top5,
            "macro": self.macro,
            "ece": self.ece,
            "nll": self.nll,
            "absent": self.absent,
            "per_class": [{"images": row.images, "accuracy": row.accuracy} for row in self.per_class],
            "confusion": None if self.confusion is None else matrix_entries(self.confusion),
        }

    def table(self, names: Sequence[str]) -> list[str]:
        """The report as lines of text: every class up to 30 of them, else the ten worst; and the ten worst confusions.

        Args:
            names: of the classes, by label.

        Raises:
            ValueError: there are more or fewer names than classes.
        """
        classes = len(self.per_class)
        if len(names) != classes:
            raise ValueError(f"Report.table: expected {classes} names, one a class, got {len(names)}")
        return [
            f"images                        {self.images:8d}",
            f"top-1 accuracy                {self.top1:8.2%}",
            f"{f'top-{min(5, classes)} accuracy':<30}{self.top5:8.2%}",
            f"mean accuracy of the classes  {self.macro:8.2%}",
            f"expected calibration error    {self.ece:8.2%}",
            f"negative log likelihood       {self.nll:8.4f}",
            *self._class_lines(names),
            *self._confusion_lines(names),
        ]

    def _class_lines(self, names: Sequence[str]) -> Iterator[str]:
        present = [(label, row) for label, row in enumerate(self.per_class) if row.accuracy is not None]
        title = "class"
        if len(self.per_class) > _SHOWN_CLASSES:
            present = sorted(present, key=lambda item: item[1].accuracy or 0)[:_SHOWN_WORST]
            title = f"the {len(present)} worst of {len(self.per_class)} classes"
        yield f"\n{title:<{NAME_WIDTH}}  images  accuracy"
        for label, row in present:
            yield f"{fit_name(names[label]):<{NAME_WIDTH}}{row.images:8d}{row.accuracy:10.2%}"
        if self.absent:
            yield f"classes without images: {list_names([names[label] for label in self.absent], _SHOWN_WORST)}"

    def _confusion_lines(self, names: Sequence[str]) -> Iterator[str]:
        if self.confusion is None:
            return
        wrong = [
            (images, true, predicted) for true, predicted, images in matrix_entries(self.confusion) if true != predicted
        ]
        if not wrong:
            return
        yield f"\n{'most confused: true class':<{NAME_WIDTH}}  {'taken for':<{NAME_WIDTH}}  images"
        for images, true, predicted in sorted(wrong, key=lambda entry: -entry[0])[:_SHOWN_WORST]:
            yield f"{fit_name(names[true]):<{NAME_WIDTH}}  {fit_name(names[predicted]):<{NAME_WIDTH}}{images:8d}"


class ClassificationMetrics:
    """Sums over the images seen so far, on the CPU, from which `compute` makes a report.

    Args:
        num_classes: C.
    """

    def __init__(self, num_classes: int) -> None:
        if num_classes < 1:
            raise ValueError(f"ClassificationMetrics: num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self._sums = {
            "images": torch.zeros(num_classes, dtype=torch.int64),
            "top1": torch.zeros(num_classes, dtype=torch.int64),
            "top5": torch.zeros(num_classes, dtype=torch.int64),
            "bin_images": torch.zeros(_BINS, dtype=torch.int64),
            "bin_correct": torch.zeros(_BINS, dtype=torch.int64),
            "bin_confidence": torch.zeros(_BINS, dtype=torch.float64),
            "nll": torch.zeros(1, dtype=torch.float64),
        }
        if num_classes <= _LARGEST_MATRIX:
            self._sums["confusion"] = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def tensors(self) -> dict[str, Tensor]:
        """The sums themselves, to be added up in place over processes: the integers are then exact in any order."""
        return self._sums

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch; equal logits count as falling from class to class. An error leaves the sums as they were.

        Args:
            logits: [N, C], floating point; logarithms of probabilities are logits too.
            labels: [N], integers; images of label -1 are padding and left out.

        Raises:
            ValueError: shapes or dtypes that do not go together, a label that is no class, or a logit that is NaN or
                infinite.
        """
        self._check(logits, labels)
        labels = labels.to(logits.device, torch.int64)
        logits, labels = logits[labels != IGNORED].float(), labels[labels != IGNORED]
        if not logits.isfinite().all():
            raise ValueError(
                "ClassificationMetrics: the logits hold NaN or infinity; the weights are damaged, or the model "
                "overflows its dtype: run it in float32 or bfloat16"
            )
        log_probabilities = logits.log_softmax(1)
        confidence = log_probabilities.amax(1).exp()
        nll = -log_probabilities.gather(1, labels[:, None])[:, 0]
        own = logits.gather(1, labels[:, None])
        # The first of equal logits wins, on every device, as argmax has it; topk leaves open which does.
        earlier = torch.arange(self.num_classes, device=logits.device) < labels[:, None]
        rank = ((logits > own) | ((logits == own) & earlier)).sum(1)
        self._add(*(tensor.cpu() for tensor in (labels, logits.argmax(1), rank, confidence, nll)))

    def _add(self, labels: Tensor, predictions: Tensor, rank: Tensor, confidence: Tensor, nll: Tensor) -> None:
        sums = self._sums
        confidence = confidence.double()
        bins = ((confidence * _BINS).ceil().long() - 1).clamp(0, _BINS - 1)  # a bin holds its upper edge
        one, correct = torch.ones_like(labels), (rank < 1).long()
        sums["images"].index_add_(0, labels, one)
        sums["top1"].index_add_(0, labels, correct)
        sums["top5"].index_add_(0, labels, (rank < 5).long())
        sums["bin_images"].index_add_(0, bins, one)
        sums["bin_correct"].index_add_(0, bins, correct)
        sums["bin_confidence"].index_add_(0, bins, confidence)
        sums["nll"] += nll.double().sum()
        if "confusion" in sums:
            sums["confusion"].index_put_((labels, predictions), one, accumulate=True)

    def compute(self) -> Report:
        """
        Raises:
            ValueError: no image was seen.
        """
        sums = self._sums
        total = int(sums["images"].sum())
        if not total:
            raise ValueError("ClassificationMetrics: no image was seen, so there is no accuracy; update() with some")
        per_class = tuple(
            ClassAccuracy(images, hits / images if images else None)
            for images, hits in zip(sums["images"].tolist(), sums["top1"].tolist(), strict=True)
        )
        accuracies = [row.accuracy for row in per_class if row.accuracy is not None]
        return Report(
            images=total,
            top1=int(sums["top1"].sum()) / total,
            top5=int(sums["top5"].sum()) / total,
            macro=sum(accuracies) / len(accuracies),
            ece=float((sums["bin_correct"] - sums["bin_confidence"]).abs().sum()) / total,
            nll=float(sums["nll"]) / total,
            per_class=per_class,
            confusion=sums["confusion"].numpy().copy() if "confusion" in sums else None,
        )

    def _check(self, logits: Tensor, labels: Tensor) -> None:
        if logits.ndim != 2 or logits.shape[1] != self.num_classes or not logits.is_floating_point():
            raise ValueError(
                f"ClassificationMetrics: expected floating-point logits [N, {self.num_classes}], got {logits.dtype} "
                f"{list(logits.shape)}"
            )
        if labels.shape != logits.shape[:1] or labels.is_floating_point():
            raise ValueError(
                f"ClassificationMetrics: expected integer labels [{len(logits)}], one a row of logits, got "
                f"{labels.dtype} {list(labels.shape)}"
            )
        values = labels.long()  # -1 in an unsigned type is its largest number
        strange = values[(values < IGNORED) | (values >= self.num_classes)]
        if len(strange):
            raise ValueError(
                f"ClassificationMetrics: labels must be below {self.num_classes}, or {IGNORED} for padding, got "
                f"{int(strange[0])}; the data has other classes than the model"
            )
