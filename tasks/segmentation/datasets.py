"""The data sets of semantic segmentation: pairs of a picture and its labels, by index.

`open_dataset` recognises what lies in a folder, by the table in `layouts.py`.
"""

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.folders import DatasetError, listing, neighbours, some
from internimage.tasks.images import Image, ImageError, read_image
from internimage.tasks.segmentation.class_names import Classes, classes_of, read_class_file
from internimage.tasks.segmentation.label_files import read_labels
from internimage.tasks.segmentation.label_values import LabelValues, plain, values_of
from internimage.tasks.segmentation.layouts import LAYOUTS, Layout, Part
from internimage.tasks.segmentation.pairs import Pairs, find_pairs

SPLITS = ("train", "val")
CLASS_FILE = "classes.json"


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture and its labels.

    Attributes:
        name: of the picture, relative to the root of the data.
        image: uint8 [H, W, 3], RGB.
        labels: uint8 [H, W], the class of each pixel, 255 where it belongs to none.
    """

    name: str
    image: Image
    labels: NDArray[np.uint8]


class SegmentationData:
    """A data set as pairs of files. Objects may be shared by threads, and forked or pickled to other processes.

    Args:
        root: what paths are relative to.
        classes: of the labels.
        parts: one after the other.
    """

    classes: Classes

    def __init__(self, root: Path, classes: Classes, parts: Sequence[Pairs]) -> None:
        self.classes = classes
        self._root = root
        self._images = np.concatenate([part.images for part in parts])
        self._labels = np.concatenate([part.labels for part in parts])
        self._values = [part.values for part in parts]
        self._ends = np.cumsum([len(part.images) for part in parts])

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        """Of the picture, relative to the root."""
        return os.fsdecode(self._images[index])

    def read(self, index: int) -> Sample:
        """Read a picture and its labels.

        Raises:
            ImageError: a file is missing or damaged, labels of another size than the picture, or that are no class.
        """
        image = self.read_image(index)
        path = self._root / os.fsdecode(self._labels[index])
        part = int(np.searchsorted(self._ends, index % len(self), side="right"))
        labels = read_labels(path, self._values[part])
        if labels.shape != image.shape[:2]:
            turned = " (turned: does the picture carry a camera's note of its orientation?)"
            raise ImageError(
                f"{path}: has {_size(labels)} pixels, expected {_size(image)} as its picture {self.name(index)}"
                f"{turned if labels.shape == image.shape[1::-1] else ''}; make labels of the picture's size"
            )
        return Sample(self.name(index), image, labels)

    def read_image(self, index: int) -> Image:
        """Read a picture alone.

        Raises:
            ImageError: the file is missing or damaged.
        """
        return read_image(self._root / self.name(index))


def open_dataset(root: Path, split: str, layout: str | None = None) -> SegmentationData:
    """Open one split of the data set in a folder.

    Symbolic links are followed; names that start with a dot are passed over.

    Args:
        split: "train" or "val", whatever the data set calls it.
        layout: a name in `LAYOUTS`; None: recognised by what the root holds. Those that differ from another one in
            their classes or pictures alone (mapillary19, cityscapes_extra) must be named.

    Raises:
        DatasetError: no such folder, split or layout; a folder or list that is missing; pictures without labels;
            labels without pictures, where no list says which pictures belong to the split; no picture at all; a
            classes.json that isn't one, or names more than 255 classes.
    """
    root = Path(root)
    if split not in SPLITS:
        raise DatasetError(f"there is no split {split!r} of a data set of segmentation, expected {' or '.join(SPLITS)}")
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder{neighbours(root)}")
    row = LAYOUTS[_recognised(root) if layout is None else _known(layout)]
    classes, values = _classes(root, row)
    parts = [find_pairs(root, part, values) for part in row.splits[split]]
    return SegmentationData(root, classes, parts)


def _known(layout: str) -> str:
    if layout not in LAYOUTS:
        nearest = difflib.get_close_matches(layout, LAYOUTS) or list(LAYOUTS)
        raise DatasetError(f"there is no layout {layout!r} of data sets of segmentation; nearest: {', '.join(nearest)}")
    return layout


def _recognised(root: Path) -> str:
    if found := _layout_in(root):
        return found
    inside = [path for path in sorted(root.iterdir()) if path.is_dir() and _layout_in(path)]
    if inside:
        raise DatasetError(f"{root}: holds no data of a known layout, but {some([str(path) for path in inside])} does")
    known = "; ".join(f"{name}: {layout.summary}" for name, layout in LAYOUTS.items())
    raise DatasetError(f"{root}: holds {listing(root)}, which is no known layout; expected one of: {known}")


def _layout_in(root: Path) -> str | None:
    """The first layout of which a split is there."""
    for name, layout in LAYOUTS.items():
        for parts in layout.splits.values():
            if all(_is_there(root, part) for part in parts):
                return name
    return None


def _is_there(root: Path, part: Part) -> bool:
    folders = (root / part.images).is_dir() and any((root / labels.folder).is_dir() for labels in part.labels)
    return folders and (part.listed is None or (root / part.listed).is_file())


def _classes(root: Path, layout: Layout) -> tuple[Classes, LabelValues]:
    """The classes, and what stands for them where the layout doesn't say it."""
    if layout.classes is not None:
        classes = classes_of(layout.classes)
        return classes, plain(len(classes))
    file = read_class_file(root / CLASS_FILE)
    return file.classes, values_of(file)


def _size(pixels: NDArray[np.uint8]) -> str:
    return f"{pixels.shape[0]}x{pixels.shape[1]}"
