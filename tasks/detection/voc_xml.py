"""Annotations of PASCAL VOC: one XML file a picture."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from internimage.tasks.detection.annotations import Annotations, Collector
from internimage.tasks.detection.found_pictures import find_files
from internimage.tasks.folders import DatasetError, neighbours, some

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocXml:
    """The pictures of one or more lists.

    Attributes:
        folder: of the years, relative to the root.
        lists: year and name of each, such as ("VOC2007", "trainval").
    """

    folder: str
    lists: tuple[tuple[str, str], ...]

    @property
    def marks(self) -> tuple[str, ...]:
        return tuple(f"{self.folder}{year}/ImageSets/Main/{name}.txt" for year, name in self.lists)

    def read(self, root: Path) -> Annotations:
        collector = Collector(", ".join(str(root / mark) for mark in self.marks))
        for mark, (year, _) in zip(self.marks, self.lists, strict=True):
            folder = f"{self.folder}{year}"
            stems = _read_list(root / mark)
            places = ([f"{folder}/JPEGImages/{stem}.jpg"] for stem in stems)
            pictures = find_files(root, list(places), str(root / mark))
            places = ([f"{folder}/Annotations/{stem}.xml"] for stem in stems)
            files = find_files(root, list(places), str(root / mark), "annotations")
            for stem, picture, file in zip(stems, pictures, files, strict=True):
                _read_picture(root / os.fsdecode(file), picture, stem, collector)
        return collector.finish(VOC_CLASSES, range(len(VOC_CLASSES)))


def _read_list(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such list of pictures{neighbours(path)}") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: can't be read: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def _read_picture(path: Path, picture: bytes, stem: str, collector: Collector) -> None:
    tree = _parse(path)
    try:
        size = int(_text(tree, "size/height")), int(_text(tree, "size/width"))
        if min(size) < 1:
            raise ValueError(f"its size is {size[0]}x{size[1]}, expected at least one pixel")
        number = collector.add_picture(picture, stem, size)
        for item in tree.iter("object"):
            name = _text(item, "name").strip()
            label = VOC_CLASSES.index(name) if name in VOC_CLASSES else None
            if label is None:
                raise ValueError(f"an object is called {name!r}, expected one of {some(VOC_CLASSES)}")
            # The first pixel is number 1. That the last one belongs to the box is passed over by the official training.
            box = [math.trunc(float(_text(item, f"bndbox/{corner}"))) - 1 for corner in _CORNERS]
            collector.add_object(number, box, label, ignored=item.findtext("difficult", "0").strip() == "1")
    except (ValueError, OverflowError) as error:
        raise DatasetError(f"{path}: isn't an annotation of PASCAL VOC: {error}") from error


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"there is no {path} in a <{element.tag}>")
    return text


def _parse(path: Path) -> ElementTree.Element:
    """The XML in a file, of which none is expanded that could make a small file large."""
    try:
        data = path.read_bytes()
        if b"<!DOCTYPE" in data or b"\0" in data:  # entities are declared there; zeros: an encoding that would hide it
            raise DatasetError(f"{path}: has a DOCTYPE or isn't UTF-8, which annotations have no use for; remove it")
        return ElementTree.fromstring(data)
    except OSError as error:
        raise DatasetError(f"{path}: can't be read: {error.strerror}") from error
    except (ElementTree.ParseError, ValueError) as error:
        raise DatasetError(f"{path}: isn't XML, or damaged: {error}; copy or download it again") from error
