"""What a detector's metrics found, whatever the metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from internimage.tasks.detection.average_precision import Curve
from internimage.tasks.reports import NAME_WIDTH, check_names, fit_name, list_names

_MOST_WORST = 10
_LISTED_ABSENT = 30

_COCO = {
    "ap": "AP, IoU 0.5 to 0.95",
    "ap50": "AP, IoU 0.5",
    "ap75": "AP, IoU 0.75",
    "aps": "AP of small objects",
    "apm": "AP of medium objects",
    "apl": "AP of large objects",
    "apr": "AP of rare classes",
    "apc": "AP of common classes",
    "apf": "AP of frequent classes",
    "ar": "average recall",
}
_TITLES = {f"{kind}_{key}": f"{kind} {title}" for kind in ("box", "mask") for key, title in _COCO.items()} | {
    "ap50": "AP, IoU 0.5",
    "ap50_11_points": "AP, IoU 0.5, at 11 recalls",
    "mr": "log-average miss rate (MR^-2)",
    "ji": "Jaccard index",
}
_COLUMNS = {
    "box_ap": "box AP",
    "box_ap50": "box AP50",
    "mask_ap": "mask AP",
    "mask_ap50": "mask AP50",
    "ap50": "AP50",
    "ap50_11_points": "11 points",
    "mr": "MR^-2",
}


@dataclass(frozen=True)
class ClassScores:
    """How one class fares.

    Attributes:
        objects: of the class in the data that count.
        figures: in [0, 1]; none where there is no object.
    """

    objects: int
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Report:
    """What the metric of a data set found; figures are in [0, 1], not in percent, and none is NaN.

    Attributes:
        pictures: that were looked at.
        figures: means over the classes that occur, the most important first. One that has nothing to be computed
            from, such as the AP of small objects where all are large, is left out.
        per_class: by label.
        curves: recall and precision at IoU 0.5, of the labels that occur.
        note: what the figures lack, in words.
    """

    pictures: int
    figures: Mapping[str, float]
    per_class: tuple[ClassScores, ...]
    curves: Mapping[int, Curve] = field(repr=False, compare=False)
    note: str = ""

    @property
    def headline(self) -> str:
        """The name of the most important figure."""
        return next(iter(self.figures))

    @property
    def objects(self) -> int:
        return sum(row.objects for row in self.per_class)

    @property
    def absent(self) -> list[int]:
        """The labels of the classes that have no object in the data, and count in no mean."""
        return [label for label, row in enumerate(self.per_class) if not row.objects]

    def summary(self) -> str:
        """The most important figure in words."""
        return f"{_TITLES[self.headline]}: {self.figures[self.headline]:.1%}"

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain numbers, lists and dictionaries.

        Args:
            names: of the classes, by label.

        Raises:
            ValueError: there are more or fewer names than classes.
        """
        check_names(names, len(self.per_class))
        rows = zip(names, self.per_class, strict=True)
        return {
            "pictures": self.pictures,
            "objects": self.objects,
            **self.figures,
            **({"note": self.note} if self.note else {}),
            "absent": [names[label] for label in self.absent],
            "per_class": [{"name": name, "objects": row.objects, **row.figures} for name, row in rows],
        }

    def table(self, names: Sequence[str]) -> list[str]:
        """The report as lines of text: the figures, then every class, the worst of them numbered from the worst on.

        Args:
            names: of the classes, by label.

        Raises:
            ValueError: there are more or fewer names than classes.
        """
        check_names(names, len(self.per_class))
        return [
            f"{'pictures':<32}{self.pictures:>10,d}",
            f"{'objects':<32}{self.objects:>10,d}",
            *(f"{_TITLES[name]:<32}{value:>10.2%}" for name, value in self.figures.items()),
            *self._class_lines(names),
            *([self.note] if self.note else []),
        ]

    def _class_lines(self, names: Sequence[str]) -> Iterator[str]:
        present = [(row, label) for label, row in enumerate(self.per_class) if row.objects]
        columns = list(present[0][0].figures)
        ranked = sorted(present, key=lambda item: item[0].figures[columns[0]])
        worst = [label for _, label in ranked[: min(_MOST_WORST, len(present) // 4)]]
        yield f"\n{'class':<{NAME_WIDTH}}{'objects':>9}" + "".join(f"{_COLUMNS[name]:>11}" for name in columns)
        for row, label in present:
            rank = f"  worst {worst.index(label) + 1}" if label in worst else ""
            figures = "".join(f"{row.figures[name]:>11.2%}" for name in columns)
            yield f"{fit_name(names[label]):<{NAME_WIDTH}}{row.objects:>9,d}{figures}{rank}"
        if self.absent:
            absent = list_names([names[label] for label in self.absent], _LISTED_ABSENT)
            yield f"without objects, left out of the means: {absent}"


def mean_figures(per_class: Sequence[ClassScores]) -> dict[str, float]:
    """The means over the classes that have objects.

    Raises:
        ValueError: there is no object at all.
    """
    present = [row.figures for row in per_class if row.objects]
    if not present:
        raise ValueError(
            "none of the pictures holds an object that counts, so there is no average precision; evaluate on "
            "annotated pictures"
        )
    return {name: sum(figures[name] for figures in present) / len(present) for name in present[0]}
