"""The data sets of detection: pictures with their objects, by index.

`open_dataset` recognises what lies in a folder, by the table in `layouts.py`.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.detection.annotations import Annotations
from internimage.tasks.detection.layouts import LAYOUTS, Layout, Metric, Part
from internimage.tasks.detection.objects import Objects, Verified
from internimage.tasks.detection.open_images import OpenImages
from internimage.tasks.folders import DatasetError, listing, neighbours, some
from internimage.tasks.images import Image, ImageError, read_image
from internimage.tasks.resizing import Size

SPLITS = ("train", "val")
_LEAST_SIDE = 32  # pixels; smaller pictures are not trained on


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture and its objects.

    Attributes:
        name: of the picture, relative to the root of the data.
        image: uint8 [H, W, 3], RGB.
        objects: in it.
    """

    name: str
    image: Image
    objects: Objects


class DetectionData:
    """One split of a data set. It may be shared by threads, and forked or pickled to other processes.

    Args:
        root: what paths are relative to.
        metric: how results are measured.
        annotations: of all pictures.

    Attributes:
        metric: how results are measured.
        classes: names, by label.
        category_ids: the source's number of each class, by label.
        frequencies: of the classes, by label, as LVIS tells them; None: the source doesn't.
        ancestors: labels of the classes that each class of Open Images is a kind of; None: there is no hierarchy.
        has_masks: every object has a mask.
        dropped: remarks on what of the annotations is left out, one a line; for the caller to print.
    """

    def __init__(self, root: Path, metric: Metric, annotations: Annotations) -> None:
        self.metric = metric
        self.classes = annotations.classes
        self.category_ids = annotations.category_ids
        self.frequencies = annotations.frequencies
        self.ancestors = annotations.ancestors
        self.has_masks = annotations.masks is not None
        self.dropped = annotations.dropped
        self._root = root
        self._annotations = annotations

    def __len__(self) -> int:
        return len(self._annotations.names)

    def name(self, index: int) -> str:
        """Of the picture, relative to the root."""
        return os.fsdecode(self._annotations.names[index])

    def image_id(self, index: int) -> int | str:
        """The source's number or name of the picture."""
        image_id = self._annotations.image_ids[index]
        if isinstance(image_id, bytes):
            return image_id.decode()
        return image_id if isinstance(image_id, str) else int(image_id)

    def size(self, index: int) -> Size:
        """Height and width of the picture."""
        return self._annotations.size(index)

    @property
    def sizes(self) -> NDArray[np.int32]:
        """[N, 2], height and width of all pictures."""
        return self._annotations.sizes

    @property
    def counts(self) -> NDArray[np.int64]:
        """[N], how many objects each picture has, ignored ones included."""
        return np.diff(self._annotations.ends)

    def objects(self, index: int) -> Objects:
        """The objects of a picture.

        Raises:
            ImageError: an outline leads far out of the picture.
        """
        try:
            return self._annotations.objects(index)
        except ValueError as error:
            raise ImageError(f"{self._root / self.name(index)}: its annotations can't be used: {error}") from error

    def labels(self, index: int) -> NDArray[np.int64]:
        """[G], of the objects of a picture, ignored ones included."""
        return self._annotations.labels_in(index)

    def verified(self, index: int) -> Verified | None:
        """The classes that were looked for in a picture; None: all of them."""
        return self._annotations.verified(index)

    def read(self, index: int) -> Sample:
        """Read a picture with its objects.

        Raises:
            ImageError: the file is missing, damaged, or of another size than the annotations say; or an object's mask
                is impossible: its outline leads far out of the picture.
        """
        return Sample(self.name(index), self.read_image(index), self.objects(index))

    def read_image(self, index: int) -> Image:
        """Read a picture alone.

        Raises:
            ImageError: the file is missing, damaged, or of another size than the annotations say.
        """
        path = self._root / self.name(index)
        image = read_image(path)
        size = self.size(index)
        if image.shape[:2] != size:
            turned = " (turned: does the picture carry a camera's note of its orientation?)"
            raise ImageError(
                f"{path}: has {image.shape[0]}x{image.shape[1]} pixels, but its annotations say {size[0]}x{size[1]}"
                f"{turned if image.shape[1::-1] == size else ''}; correct the annotations, or take the picture they "
                "were made for"
            )
        return image


def open_dataset(root: Path, split: str, layout: str | None = None, *, hierarchy: Path | None = None) -> DetectionData:
    """Open one split of the data set in a folder.

    Classes are labelled from 0 in the order of the source's numbers. Crowd regions, difficult objects and the like are
    marked as ignored. Boxes are clipped to their pictures; those that have no area left are left out, which
    `DetectionData.dropped` tells. Pictures without objects are kept: see `trainable`.

    Args:
        root: folder of the data.
        split: "train" or "val", whatever the data set calls it.
        layout: a name in `LAYOUTS`; None: recognised by what the root holds. LVIS beside COCO must be named.
        hierarchy: file of the classes of Open Images; None: the one beside the annotations, where there is one.

    Raises:
        DatasetError: no such folder, split or layout; annotations that are missing, damaged, of another format, or
            contradict themselves; pictures that are missing.
    """
    root = Path(root)
    if split not in SPLITS:
        raise DatasetError(f"there is no split {split!r} of a data set of detection, expected {' or '.join(SPLITS)}")
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder{neighbours(root)}")
    name = _recognised(root, split) if layout is None else _known(layout)
    row = LAYOUTS[name]
    part = _part(root, row, split)
    if hierarchy is not None:
        if not isinstance(part, OpenImages):
            raise DatasetError(f"{hierarchy}: classes have a hierarchy in Open Images alone, but {root} is {name}")
        part = replace(part, hierarchy=hierarchy)
    return DetectionData(root, row.metric, part.read(root))


def trainable(data: DetectionData, *, keep_empty: bool = False) -> NDArray[np.int64]:
    """The indices of pictures to train on, as the official training picks them: with an object, sides of 32 at least.

    Args:
        data: to pick from.
        keep_empty: keep pictures without objects, too.

    Raises:
        DatasetError: none is left.
    """
    large = data.sizes.min(axis=1) >= _LEAST_SIDE
    indices = np.flatnonzero(large & (keep_empty | (data.counts > 0)))
    if not len(indices):
        raise DatasetError(
            f"none of the {len(data)} pictures can be trained on: {int((data.counts > 0).sum())} have objects, "
            f"{int(large.sum())} have sides of at least {_LEAST_SIDE} pixels"
        )
    return indices


def _known(layout: str) -> str:
    if layout not in LAYOUTS:
        nearest = difflib.get_close_matches(layout, LAYOUTS) or list(LAYOUTS)
        raise DatasetError(f"there is no layout {layout!r} of data sets of detection; nearest: {', '.join(nearest)}")
    return layout


def _recognised(root: Path, split: str) -> str:
    # A folder without this split may be known by the other one, which gives the better message.
    for wanted in (split, *SPLITS):
        if found := _layout_in(root, wanted):
            return found
    inside = [path for path in sorted(root.iterdir()) if path.is_dir() and _layout_in(path, split)]
    if inside:
        raise DatasetError(f"{root}: holds no data of a known layout, but {some([str(path) for path in inside])} does")
    known = "; ".join(f"{name}: {layout.summary}" for name, layout in LAYOUTS.items())
    raise DatasetError(f"{root}: holds {listing(root)}, which is no known layout; expected one of: {known}")


def _layout_in(root: Path, split: str) -> str | None:
    """The first layout of which the split is there."""
    for name, layout in LAYOUTS.items():
        if any(_is_there(root, part) for part in layout.splits[split]):
            return name
    return None


def _is_there(root: Path, part: Part) -> bool:
    return all((root / mark).is_file() for mark in part.marks)


def _part(root: Path, layout: Layout, split: str) -> Part:
    for part in layout.splits[split]:
        if _is_there(root, part):
            return part
    (missing, *_) = (root / mark for mark in layout.splits[split][0].marks if not (root / mark).is_file())
    raise DatasetError(f"{missing}: no such file{neighbours(missing)}; expected {layout.summary}")
