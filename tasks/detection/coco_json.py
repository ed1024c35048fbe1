"""Annotations in COCO's JSON, and in its relatives: LVIS, Objects365, one's own."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from internimage.tasks.detection.annotations import Annotations, Collector
from internimage.tasks.detection.found_pictures import find_files, read_sizes
from internimage.tasks.detection.objects import Frequency, Verified
from internimage.tasks.folders import DatasetError, neighbours, some
from internimage.tasks.resizing import Size

_KEYS = ("images", "annotations", "categories")
_RARE, _COMMON = 10, 100  # pictures that show a class of LVIS, at most (arXiv 1908.03195, section 3)
_LARGEST_SIDE = 1 << 20  # pixels; OpenCV reads no larger ones
_MARGIN = 2  # pixels by which a box may well reach out of its picture
_EXPECTED = "expected x, y of the left upper corner, width and height, in pixels"


@dataclass(frozen=True)
class CocoJson:
    """One JSON file with the objects of many pictures.

    Attributes:
        file: relative to the root.
        folders: where the pictures may lie, relative to the root; the first that has one counts.
    """

    file: str
    folders: tuple[str, ...]

    @property
    def marks(self) -> tuple[str, ...]:
        return (self.file,)

    def read(self, root: Path) -> Annotations:
        path = root / self.file
        content = _read_json(path)
        categories = _read_categories(content["categories"], path)
        labels = {category_id: label for label, category_id in enumerate(categories)}
        collector = Collector(str(path))
        numbers = self._add_pictures(root, content["images"], labels, collector)
        _add_objects(content.pop("annotations"), numbers, labels, collector, path)
        frequencies = _read_frequencies(content["categories"])
        return collector.finish(tuple(categories.values()), tuple(categories), frequencies=frequencies)

    def _add_pictures(
        self, root: Path, images: Sequence[Any], labels: Mapping[int, int], collector: Collector
    ) -> dict[int | str, tuple[int, Size]]:
        """Number and size of each picture, by its id."""
        path = root / self.file
        entries = [_Entry.of(image, f"{path}: image {place}") for place, image in enumerate(images)]
        names = find_files(root, [_places(entry, self.folders) for entry in entries], str(path))
        unknown = [place for place, entry in enumerate(entries) if entry.size is None]
        sizes = dict(zip(unknown, read_sizes(root, [names[place] for place in unknown]), strict=True))
        federated = any("neg_category_ids" in image for image in images)
        numbers = {}
        for place, (image, entry, name) in enumerate(zip(images, entries, names, strict=True)):
            if entry.id in numbers:
                raise DatasetError(f"{path}: two images have the id {entry.id!r}; each needs its own")
            size = entry.size or sizes[place]
            numbers[entry.id] = collector.add_picture(name, entry.id, size), size
            if federated:
                where = f"{path}: image {place}"
                negative, partial = (
                    _known(image.get(key, ()), labels, f"{where}: {key}")
                    for key in ("neg_category_ids", "not_exhaustive_category_ids")
                )
                collector.add_verified(Verified(frozenset(partial), frozenset(negative), frozenset(partial)))
        return numbers


@dataclass(frozen=True)
class _Entry:
    """What counts of an image in the JSON. LVIS tells the name in its address alone."""

    id: int | str
    name: str
    url: str
    size: Size | None

    @classmethod
    def of(cls, image: Any, where: str) -> _Entry:
        if not isinstance(image, dict):
            raise DatasetError(f"{where}: is {str(image)[:40]}, expected an object")
        image_id, name, url = image.get("id"), image.get("file_name", ""), image.get("coco_url", "")
        if not isinstance(image_id, int | str) or not isinstance(name, str) or not isinstance(url, str):
            raise DatasetError(f"{where}: expected an id and a file_name, got {str(image)[:80]}")
        if not name and not url:
            raise DatasetError(f"{where}: has neither file_name nor coco_url, but {', '.join(image)}")
        height, width = image.get("height"), image.get("width")
        size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        if size is not None and not 1 <= min(size) <= max(size) <= _LARGEST_SIDE:
            size = None
        return cls(image_id, name.replace("\\", "/").removeprefix("./"), url, size)


def _places(entry: _Entry, folders: Sequence[str]) -> list[str]:
    """Where the picture may lie: as its name says, or in the folder that its name or address says last."""
    tails = ["/".join(text.split("/")[-2:]) for text in (entry.name, entry.url) if text.count("/") > 1]
    names = dict.fromkeys([entry.name, *tails] if entry.name else tails)
    return [f"{folder}/{name}" if folder else name for name in names for folder in folders]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = json.load(file)
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file of annotations{neighbours(path)}") from None
    except OSError as error:
        raise DatasetError(f"{path}: can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: isn't JSON, or damaged: {error}; copy or download it again") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: holds a {type(content).__name__}, expected an object with {', '.join(_KEYS)}")
    for key in _KEYS:
        if not isinstance(content.get(key), list):
            raise DatasetError(
                f"{path}: isn't in COCO's format: has {some([*content]) or 'nothing'}, expected the lists "
                f"{', '.join(_KEYS)}"
            )
    return content


def _read_categories(categories: Sequence[Any], path: Path) -> dict[int, str]:
    """Names by id, in the order of the ids."""
    names: dict[int, str] = {}
    for category in categories:
        if not isinstance(category, dict) or type(category.get("id")) is not int or "name" not in category:
            raise DatasetError(f"{path}: expected categories with a whole number id and a name, got {category}")
        if category["id"] in names:
            raise DatasetError(
                f"{path}: the categories {names[category['id']]} and {category['name']} have the same id "
                f"{category['id']}; each needs its own"
            )
        names[category["id"]] = str(category["name"])
    if not names:
        raise DatasetError(f"{path}: has no categories, expected at least one")
    return dict(sorted(names.items()))


def _read_frequencies(categories: Sequence[Mapping[str, Any]]) -> tuple[Frequency, ...] | None:
    """How frequent the classes are, in the order of their ids, as LVIS notes it; None where one lacks the note."""
    ordered = sorted(categories, key=itemgetter("id"))
    told = [category.get("frequency") for category in ordered]
    if all(frequency in get_args(Frequency) for frequency in told):
        return tuple(cast("list[Frequency]", told))
    counts = [count for category in ordered if isinstance(count := category.get("image_count"), int)]
    if len(counts) == len(ordered):
        return tuple("r" if count <= _RARE else "c" if count <= _COMMON else "f" for count in counts)
    return None


def _known(category_ids: Any, labels: Mapping[int, int], where: str) -> list[int]:
    try:
        return [labels[category_id] for category_id in category_ids]
    except (KeyError, TypeError):
        raise DatasetError(f"{where}: got {str(category_ids)[:60]}, expected ids of the categories") from None


def _add_objects(
    annotations: Sequence[Any],
    numbers: Mapping[int | str, tuple[int, Size]],
    labels: Mapping[int, int],
    collector: Collector,
    path: Path,
) -> None:
    boxes, sizes = array("d"), array("d")
    for place, annotation in enumerate(tqdm(annotations, path.name, unit=" objects", delay=5, leave=False)):
        where = f"{path}: annotation {place}"
        try:
            image_id, category_id, box = annotation["image_id"], annotation["category_id"], annotation["bbox"]
            x, y, width, height = map(float, box)
            area = float(annotation.get("area", np.nan))
            picture, size = numbers.get(image_id, (None, (0, 0)))
            label = labels.get(category_id)
        except KeyError as error:
            raise DatasetError(f"{where}: has no {error.args[0]}, but {', '.join(annotation)}") from None
        except (TypeError, ValueError, OverflowError) as error:
            raise DatasetError(f"{where}: {error}; {_EXPECTED}, got {str(annotation)[:120]}") from None
        if picture is None:
            raise DatasetError(f"{where}: belongs to image {image_id!r}, which the file doesn't have")
        if label is None:
            raise DatasetError(
                f"{where}: has category_id {category_id!r}, expected one of the ids {min(labels)} to {max(labels)} of "
                f"the {len(labels)} categories"
            )
        boxes.extend((x, y, width, height))
        sizes.extend(size)
        try:
            collector.add_object(
                picture,
                (x, y, x + width, y + height),
                label,
                ignored=bool(int(annotation.get("iscrowd", 0))),
                area=area if area > 0 else np.nan,
                segmentation=annotation.get("segmentation"),
            )
        except TypeError as error:
            expected = "expected a segmentation of polygons [[x, y, x, y...]] or RLE, and iscrowd 0 or 1"
            raise DatasetError(f"{where}: {error}; {expected}") from error
        except (ValueError, OverflowError) as error:
            raise DatasetError(f"{where}: {error}") from error
    _check_format(np.array(boxes).reshape(-1, 4), np.array(sizes).reshape(-1, 2)[:, ::-1], path)


def _check_format(boxes: NDArray[np.float64], sizes: NDArray[np.float64], path: Path) -> None:
    """Refuse boxes of another format, most of which would lie partly outside their pictures, or be empty.

    Args:
        boxes: [M, 4], x, y, width and height.
        sizes: [M, 2], width and height of their pictures.
        path: for the message.
    """
    start, sides = boxes[:, :2], boxes[:, 2:]
    if len(boxes) and (boxes >= 0).all() and (start + sides <= 1.01).all():
        raise DatasetError(f"{path}: all boxes look like shares of the picture's sides, from 0 to 1; {_EXPECTED}")
    strange = ((sides < 0) | (start < -_MARGIN) | (start + sides > sizes + _MARGIN)).any(axis=1)
    if strange.sum() <= len(boxes) / 2:
        return
    corners = ((sides >= start) & (start >= -_MARGIN) & (sides <= sizes + _MARGIN)).all()
    raise DatasetError(
        f"{path}: {strange.sum()} of {len(boxes)} boxes reach out of their pictures or have negative sides"
        f"{': they look like corners x1, y1, x2, y2' if corners else ''}; {_EXPECTED}, got for one {boxes[strange][0]}"
    )
