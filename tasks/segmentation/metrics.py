"""How well a segmentor does: IoU and accuracy of the classes, from one confusion matrix over all pixels.

metrics = SegmentationMetrics(num_classes=150)
for images, labels in batches:
    metrics.update(predict_classes(model, images, size), labels)
print(*metrics.compute().table(names), sep="\n")
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from internimage.tasks.reports import NAME_WIDTH, check_names, fit_name, list_names, matrix_entries
from internimage.tasks.segmentation.class_names import IGNORED

_MOST_WORST = 10
_LISTED_ABSENT = 30


@dataclass(frozen=True)
class ClassScores:
    """How one class fares; all in [0, 1].

    Attributes:
        iou: pixels both labelled and predicted as the class, of those either labelled or predicted as it. None where
            there are none of either.
        accuracy: share of the pixels of the class that are predicted as it. None where no pixel is labelled as it.
        share: of all labelled pixels, those of the class.
    """

    iou: float | None
    accuracy: float | None
    share: float


@dataclass(frozen=True)
class Report:
    """What `SegmentationMetrics` found; figures are in [0, 1], not in percent.

    As in the published figures (mmsegmentation's convention), sums are over the pixels of all images, and a class that
    is predicted but never labelled has IoU 0 and counts in `miou`. A class that is neither counts nowhere, and is
    listed as absent.

    Attributes:
        pixels: labelled and thus counted.
        miou: mean of the IoUs of the classes that are labelled or predicted.
        macc: mean of the accuracies of the classes that are labelled.
        aacc: share of the pixels that are right.
        per_class: by label.
        confusion: int64 [C, C], pixels by true and predicted class.
    """

    pixels: int
    miou: float
    macc: float
    aacc: float
    per_class: tuple[ClassScores, ...]
    confusion: NDArray[np.int64] = field(repr=False, compare=False)

    @property
    def absent(self) -> list[int]:
        """The labels of the classes that are neither labelled nor predicted."""
        return [label for label, row in enumerate(self.per_class) if row.iou is None]

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain numbers, lists and dictionaries; the matrix as triples (true label, predicted label, pixels).

        Args:
            names: of the classes, by label.

        Raises:
            ValueError: there are more or fewer names than classes.
        """
        check_names(names, len(self.per_class))
        rows = zip(names, self.per_class, strict=True)
        return {
            "pixels": self.pixels,
            "miou": self.miou,
            "macc": self.macc,
            "aacc": self.aacc,
            "absent": [names[label] for label in self.absent],
            "per_class": [{"name": n, "iou": r.iou, "accuracy": r.accuracy, "share": r.share} for n, r in rows],
            "confusion": matrix_entries(self.confusion),
        }

    def table(self, names: Sequence[str]) -> list[str]:
        """The report as lines of text: the means, then every class, the worst of them numbered from the worst on.

        Args:
            names: of the classes, by label.

        Raises:
            ValueError: there are more or fewer names than classes.
        """
        check_names(names, len(self.per_class))
        return [
            f"labelled pixels               {self.pixels:14,d}",
            f"mean IoU                      {self.miou:14.2%}",
            f"mean accuracy of the classes  {self.macc:14.2%}",
            f"pixel accuracy                {self.aacc:14.2%}",
            *self._class_lines(names),
        ]

    def _class_lines(self, names: Sequence[str]) -> Iterator[str]:
        present = [(row.iou, label) for label, row in enumerate(self.per_class) if row.iou is not None]
        worst = [label for _, label in sorted(present)[: min(_MOST_WORST, len(present) // 4)]]
        yield f"\n{'class':<{NAME_WIDTH}}{'IoU':>9}{'accuracy':>10}{'share':>9}"
        for _, label in present:
            row = self.per_class[label]
            accuracy = "-" if row.accuracy is None else f"{row.accuracy:.2%}"
            rank = f"  worst {worst.index(label) + 1}" if label in worst else ""
            yield f"{fit_name(names[label]):<{NAME_WIDTH}}{row.iou:>9.2%}{accuracy:>10}{row.share:>9.2%}{rank}"
        if unlabelled := [names[label] for _, label in present if self.per_class[label].accuracy is None]:
            yield f"predicted, but never labelled (IoU 0 counts): {list_names(unlabelled, _LISTED_ABSENT)}"
        if self.absent:
            absent = list_names([names[label] for label in self.absent], _LISTED_ABSENT)
            yield f"neither labelled nor predicted, left out of the means: {absent}"


class SegmentationMetrics:
    """The confusion matrix of the pixels seen so far, on the CPU, from which `compute` makes a report.

    Args:
        num_classes: C, at most 255: label 255 is for ignored pixels.
    """

    def __init__(self, num_classes: int) -> None:
        if not 1 <= num_classes <= IGNORED:
            raise ValueError(f"SegmentationMetrics: num_classes must be from 1 to {IGNORED}, got {num_classes}")
        self.num_classes = num_classes
        self._confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def tensors(self) -> dict[str, Tensor]:
        """The matrix itself, to be added up in place over processes: exact in any order."""
        return {"confusion": self._confusion}

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Add an image or a batch. An error leaves the matrix as it was.

        Args:
            predictions: [N, H, W] or [H, W], integers: the predicted class of each pixel.
            labels: of the same shape, integers: the true classes. Pixels of label 255 don't count.

        Raises:
            ValueError: shapes that differ, dtypes that are no integers, or a label or prediction that is no class.
        """
        if predictions.shape != labels.shape:
            raise ValueError(
                f"SegmentationMetrics: expected predictions and labels of one shape, got {list(predictions.shape)} "
                f"and {list(labels.shape)}; resize the scores to the size of the labels before argmax"
            )
        if predictions.is_floating_point() or labels.is_floating_point():
            raise ValueError(
                f"SegmentationMetrics: expected integer predictions and labels, got {predictions.dtype} and "
                f"{labels.dtype}; take argmax over the classes first"
            )
        labels = labels.to(predictions.device, torch.int64)
        counted = labels != IGNORED
        true, predicted = labels[counted], predictions[counted].long()
        self._check("labels", true, f", or {IGNORED} for pixels to ignore")
        self._check("predictions", predicted)
        cells = torch.bincount(true * self.num_classes + predicted, minlength=self._confusion.numel())
        self._confusion += cells.view_as(self._confusion).cpu()

    def compute(self) -> Report:
        """
        Raises:
            ValueError: no labelled pixel was seen.
        """
        confusion = self._confusion
        pixels = int(confusion.sum())
        if not pixels:
            raise ValueError(
                "SegmentationMetrics: no labelled pixel was seen, so there is no IoU; update() with some that are "
                f"not {IGNORED}"
            )
        right, labelled, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        per_class = tuple(
            ClassScores(
                iou=hits / (true + found - hits) if true + found else None,
                accuracy=hits / true if true else None,
                share=true / pixels,
            )
            for hits, true, found in zip(right.tolist(), labelled.tolist(), predicted.tolist(), strict=True)
        )
        return Report(
            pixels=pixels,
            miou=_mean([row.iou for row in per_class]),
            macc=_mean([row.accuracy for row in per_class]),
            aacc=int(right.sum()) / pixels,
            per_class=per_class,
            confusion=confusion.numpy().copy(),
        )

    def _check(self, what: str, classes: Tensor, besides: str = "") -> None:
        strange = classes[(classes < 0) | (classes >= self.num_classes)]
        if len(strange):
            raise ValueError(
                f"SegmentationMetrics: {what} must be from 0 to {self.num_classes - 1}{besides}, got "
                f"{int(strange[0])}; the data has other classes than the model"
            )


def _mean(figures: list[float | None]) -> float:
    known = [figure for figure in figures if figure is not None]
    return sum(known) / len(known)
