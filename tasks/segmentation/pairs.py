"""Which label file belongs to which picture."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.folders import DatasetError, files_below, neighbours, some
from internimage.tasks.segmentation.label_values import LabelValues
from internimage.tasks.segmentation.layouts import LabelFiles, Part

Files = dict[bytes, bytes]  # paths relative to the root, by what pictures and their labels have in common


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pictures and label files that are read in the same way.

    Attributes:
        images: [N], encoded paths, relative to the root.
        labels: [N], likewise.
        values: what stands for which class in the label files.
    """

    images: NDArray[np.bytes_]
    labels: NDArray[np.bytes_]
    values: LabelValues


def find_pairs(root: Path, part: Part, values: LabelValues) -> Pairs:
    """The pictures of one part of a layout, with their labels: sorted, or in the order of the list.

    Args:
        values: what stands for which class where the layout doesn't say it.

    Raises:
        DatasetError: a folder or list that is missing or empty, two pictures of one name, pictures without labels;
            labels without pictures, where neither a list nor the layout allows them.
    """
    images = _files(root, part.images, part.suffixes)
    place, labels = _labels(root, part)
    if part.listed is None:
        keys = sorted(images)
    else:
        keys = _listed(root / part.listed)
        _check_listed(root / part.listed, keys, root / part.images, images)
    if not keys:
        there = (
            f"names no picture of {root / part.images}" if part.listed else f"holds no {', '.join(part.suffixes)} file"
        )
        raise DatasetError(f"{root / (part.listed or part.images)}: {there}; expected pictures with labels")
    _check_labelled(root / part.images, keys, root / place.folder, place.suffix, labels)
    if part.listed is None and not part.spare_labels:
        _check_none_left(root / place.folder, labels, root / part.images, images)
    return Pairs(_paths(images, keys), _paths(labels, keys), place.values or values)


def _files(root: Path, folder: str, suffixes: Sequence[str]) -> Files:
    if not (root / folder).is_dir():
        raise DatasetError(f"{root / folder}: no such folder{neighbours(root / folder)}")
    ends = tuple(os.fsencode(suffix.lower()) for suffix in suffixes)
    files: Files = {}
    for path in files_below(os.fsencode(root / folder), ends):
        end = next(end for end in ends if path.lower().endswith(end))
        key = path[: -len(end)]
        if key in files:
            names = sorted(os.fsdecode(found) for found in (files[key], os.fsencode(folder) + b"/" + path))
            raise DatasetError(f"{root}: {' and '.join(names)} would have the same labels; rename one")
        files[key] = os.fsencode(folder) + b"/" + path
    return files


def _labels(root: Path, part: Part) -> tuple[LabelFiles, Files]:
    """The first place of labels that holds any, and what it holds."""
    there = [place for place in part.labels if (root / place.folder).is_dir()]
    if not there:
        missing = root / part.labels[-1].folder
        raise DatasetError(f"{missing}: no such folder{neighbours(missing)}")
    for place in there:
        files = _files(root, place.folder, (place.suffix,))
        for other in part.labels:
            if len(other.suffix) > len(place.suffix):  # "x_labelTrainIds.png" ends in ".png", too
                end = os.fsencode(other.suffix.lower())
                files = {key: path for key, path in files.items() if not path.lower().endswith(end)}
        if files:
            break
    return place, files


def _listed(path: Path) -> list[bytes]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such list of pictures{neighbours(path)}") from None
    except OSError as error:
        raise DatasetError(f"{path}: can't be read: {error.strerror}") from error
    return [line.strip() for line in lines if line.strip()]


def _check_listed(path: Path, keys: Sequence[bytes], folder: Path, images: Files) -> None:
    lacking = [os.fsdecode(key) for key in keys if key not in images]
    if lacking:
        raise DatasetError(
            f"{path}: names {len(lacking)} of {len(keys)} pictures that {folder} lacks: {some(lacking)}; expected the "
            "names of pictures without suffix, one a line"
        )


def _check_labelled(folder: Path, keys: Sequence[bytes], place: Path, suffix: str, labels: Files) -> None:
    lacking = [os.fsdecode(key) for key in keys if key not in labels]
    if lacking:
        raise DatasetError(
            f"{folder}: {len(lacking)} of {len(keys)} pictures have no labels: {some(lacking)}; expected files in "
            f"{place} that are called so and end in {suffix}"
        )


def _check_none_left(place: Path, labels: Files, folder: Path, images: Files) -> None:
    left = sorted(os.fsdecode(path) for key, path in labels.items() if key not in images)
    if left:
        raise DatasetError(
            f"{place}: {len(left)} of {len(labels)} label files belong to no picture in {folder}: {some(left)}; remove "
            "them, or add the pictures"
        )


def _paths(files: Files, keys: Sequence[bytes]) -> NDArray[np.bytes_]:
    return np.array([files[key] for key in keys], np.bytes_)
