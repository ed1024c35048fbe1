"""Annotations of CrowdHuman (arXiv 1805.00123): one JSON object a line and picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internimage.tasks.detection.annotations import Annotations, Collector
from internimage.tasks.detection.found_pictures import find_files, read_sizes
from internimage.tasks.folders import DatasetError, neighbours


@dataclass(frozen=True)
class CrowdHuman:
    """The full boxes of persons. Ignored are those marked so, and regions that are no person ("mask").

    Attributes:
        file: relative to the root.
        folders: where the pictures may lie, relative to the root.
    """

    file: str
    folders: tuple[str, ...]

    @property
    def marks(self) -> tuple[str, ...]:
        return (self.file,)

    def read(self, root: Path) -> Annotations:
        path = root / self.file
        pictures = list(_read_lines(path))
        places = [[f"{folder}/{image_id}.jpg" for folder in self.folders] for image_id, _ in pictures]
        names = find_files(root, places, str(path))
        sizes = read_sizes(root, names)
        collector = Collector(str(path))
        for (image_id, boxes), name, size in zip(pictures, names, sizes, strict=True):
            number = collector.add_picture(name, image_id, size)
            for (x, y, width, height), ignored in boxes:
                collector.add_object(number, (x, y, x + width, y + height), 0, ignored=ignored)
        return collector.finish(("person",), (1,))


def _read_lines(path: Path) -> Iterator[tuple[str, list[tuple[list[float], bool]]]]:
    """Each picture's name, its boxes x, y, width and height, and which are ignored."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _read_line(line, f"{path}: line {number}")
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file of annotations{neighbours(path)}") from None
    except OSError as error:
        raise DatasetError(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: isn't text, or damaged: {error}; copy or download it again") from error


def _read_line(line: str, where: str) -> tuple[str, list[tuple[list[float], bool]]]:
    try:
        content = json.loads(line)
        return str(content["ID"]), [_read_box(entry) for entry in content["gtboxes"]]
    except KeyError as error:
        raise DatasetError(
            f"{where}: there is no {error.args[0]}; expected an ID and gtboxes with tag and fbox"
        ) from None
    except (ValueError, TypeError, RecursionError) as error:
        raise DatasetError(f"{where}: isn't an annotation of CrowdHuman, or damaged: {error}") from error


def _read_box(entry: Any) -> tuple[list[float], bool]:
    x, y, width, height = map(float, entry["fbox"])
    return [x, y, width, height], entry["tag"] != "person" or entry.get("extra", {}).get("ignore", 0) == 1
