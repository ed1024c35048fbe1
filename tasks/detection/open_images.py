"""Annotations of Open Images (arXiv 1811.00982): tables of boxes and of verified labels."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from tqdm import tqdm

from internimage.tasks.detection.annotations import Annotations, Collector
from internimage.tasks.detection.found_pictures import find_files, read_sizes
from internimage.tasks.detection.hierarchy import read_hierarchy
from internimage.tasks.detection.objects import Verified
from internimage.tasks.folders import DatasetError, neighbours

_CLASSES = "class-descriptions-boxable.csv"
_HEADER = "LabelName"  # of the table of classes, where it has one
_BOX_COLUMNS = ("ImageID", "LabelName", "XMin", "YMin", "XMax", "YMax", "IsGroupOf")
_LABEL_COLUMNS = ("ImageID", "LabelName", "Confidence")
_HIERARCHY = "bbox_labels_600_hierarchy.json"


@dataclass(frozen=True)
class OpenImages:
    """The pictures that have boxes. A box around a group is ignored.

    Attributes:
        folder: of the tables, relative to the root.
        boxes: a table.
        labels: a table of the classes that were verified to be in a picture or not; used where it is there.
        folders: where the pictures may lie, relative to the root.
        hierarchy: of the classes; None: the published file beside the tables, where there is one.
    """

    folder: str
    boxes: str
    labels: str
    folders: tuple[str, ...]
    hierarchy: Path | None = None

    @property
    def marks(self) -> tuple[str, ...]:
        return self.folder + self.boxes, self.folder + _CLASSES

    def read(self, root: Path) -> Annotations:
        folder = root / self.folder
        labels, names = _read_classes(folder / _CLASSES)
        path = folder / self.boxes
        table = _Boxes.read(path, labels)
        files = find_files(root, [[f"{place}/{i}.jpg" for place in self.folders] for i in table.numbers], str(path))
        sizes = read_sizes(root, files)
        collector = Collector(str(path))
        for image_id, file, size in zip(table.numbers, files, sizes, strict=True):
            collector.add_picture(file, image_id, size)
        for row, (number, label) in enumerate(zip(table.pictures, table.labels, strict=True)):
            height, width = sizes[number]
            x1, y1, x2, y2 = table.shares[4 * row : 4 * row + 4]
            corners = x1 * width, y1 * height, x2 * width, y2 * height
            collector.add_object(number, corners, label, ignored=bool(table.groups[row]))
        if (folder / self.labels).is_file():
            for present, absent in _read_verified(folder / self.labels, labels, table.numbers):
                collector.add_verified(Verified(frozenset(present), frozenset(absent)))
        ancestors = None
        if self.hierarchy is not None or (folder / _HIERARCHY).is_file():
            ancestors = read_hierarchy(self.hierarchy or folder / _HIERARCHY, labels)
        return collector.finish(names, range(1, len(names) + 1), ancestors=ancestors)


class _Boxes:
    """A table of boxes as flat arrays: the whole has 15 million rows."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}  # of the pictures, by their ids
        self.pictures = array("q")  # number of each box's picture
        self.labels = array("q")
        self.shares = array("d")  # corners, as shares of the picture's sides
        self.groups = array("b")

    @classmethod
    def read(cls, path: Path, labels: Mapping[str, int]) -> _Boxes:
        table = cls()
        for line, (image_id, label, *corners, group) in _rows(path, _BOX_COLUMNS):
            try:
                table.shares.extend(map(float, corners))
                table.labels.append(labels[label])
            except ValueError as error:
                raise DatasetError(f"{path}: line {line}: {error}") from None
            except KeyError:
                raise DatasetError(f"{path}: line {line}: has the class {label}, which {_CLASSES} lacks") from None
            table.pictures.append(table.numbers.setdefault(image_id, len(table.numbers)))
            table.groups.append(group.strip() == "1")
        if table.shares and max(table.shares) > 2:  # far more than rounding
            raise DatasetError(f"{path}: holds corners up to {max(table.shares)}, expected shares of sides, 0 to 1")
        return table


def _read_classes(path: Path) -> tuple[dict[str, int], list[str]]:
    """Labels by the source's key, and names by label."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row and row[0] != _HEADER]
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file of classes{neighbours(path)}") from None
    except (OSError, ValueError, csv.Error) as error:
        raise DatasetError(f"{path}: can't be read as a table of classes: {error}") from error
    labels = {row[0]: label for label, row in enumerate(rows)}
    if not rows or len(labels) < len(rows) or any(len(row) != 2 for row in rows):
        raise DatasetError(f"{path}: expected lines such as /m/011k07,Tortoise, with a key of its own for each class")
    return labels, [row[1] for row in rows]


def _read_verified(
    path: Path, labels: Mapping[str, int], numbers: Mapping[str, int]
) -> list[tuple[set[int], set[int]]]:
    """The labels that each picture was verified to hold, and not to; only of these classes and pictures."""
    verified: list[tuple[set[int], set[int]]] = [(set(), set()) for _ in numbers]
    for line, (image_id, label, confidence) in _rows(path, _LABEL_COLUMNS):
        if confidence not in ("0", "1"):
            raise DatasetError(f"{path}: line {line}: has the confidence {confidence}, expected 1 (verified) or 0")
        if image_id in numbers and label in labels:
            present, absent = verified[numbers[image_id]]
            (present if confidence == "1" else absent).add(labels[label])
    return verified


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The lines of a table from the second on, and what stands in these columns of each."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if missing := [column for column in columns if column not in header]:
                raise DatasetError(f"{path}: has no column {', '.join(missing)}, but {', '.join(header)}")
            pick = itemgetter(*(header.index(column) for column in columns))
            for row in tqdm(reader, path.name, unit=" lines", delay=5, leave=False):
                if row:
                    yield reader.line_num, pick(row)
    except OSError as error:
        raise DatasetError(f"{path}: can't be read: {error.strerror}") from error
    except (IndexError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: isn't a table, or damaged after line {reader.line_num}: {error}") from error
