"""The files of the iNaturalist 2018 challenge: pictures, their species, and when and where they were taken."""

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.folders import DatasetError, some

_MONTH = re.compile(r"[0-9]{4}-([0-9]{1,2})(?![0-9])")
_NOWHEN_NOWHERE = (math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class INaturalist:
    """One split: `files`, `categories` and `metadata` have a row for each picture."""

    files: NDArray[np.bytes_]  # [N], encoded paths
    categories: NDArray[np.int64]  # [N], rows of `category_ids`
    metadata: NDArray[np.float64]  # [N, 3]: month (1 to 12), degrees north, degrees east; NaN where unknown
    category_ids: list[int]  # sorted


def annotations_path(folder: Path, split: str) -> Path:
    return folder / f"{split}2018.json"


def read_inaturalist(folder: Path, split: str) -> INaturalist:
    """Read {split}2018.json and, where there is one, {split}2018_locations.json.

    Dates and places that can't be (month 0, 91 degrees north) count as unknown.

    Raises:
        DatasetError: a file isn't what the challenge has under this name, or pictures that it names are missing.
    """
    path = annotations_path(folder, split)
    content = _read_json(path)
    try:
        files = {image["id"]: os.fsencode(image["file_name"]) for image in content["images"]}
        category_of = {note["image_id"]: int(note["category_id"]) for note in content["annotations"]}
        known = {int(category["id"]) for category in content.get("categories", ())} or set(category_of.values())
        single = len(files) == len(content["images"]) and len(category_of) == len(content["annotations"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(
            f'{path}: not the layout of iNaturalist 2018 ({error!r}), expected {{"images": [{{"id": 7, "file_name": '
            '"..."}], "annotations": [{"image_id": 7, "category_id": 42}], "categories": [{"id": 42}]}'
        ) from error
    if not single or files.keys() != category_of.keys():
        odd = sorted(map(str, files.keys() ^ category_of.keys()))
        raise DatasetError(
            f"{path}: expected each image once and with one annotation; images without annotation, or the reverse: "
            f"{some(odd) or 'none, but some occur twice'}"
        )
    if unknown := sorted(set(category_of.values()) - known):
        raise DatasetError(f"{path}: annotations name categories that it doesn't list: {some([*map(str, unknown)])}")
    if missing := missing_files(folder, files.values()):
        raise DatasetError(f"{folder}: {len(missing)} pictures that {path.name} names are missing: {some(missing)}")
    category_ids = sorted(known)
    metadata = _read_locations(folder / f"{split}2018_locations.json")
    return INaturalist(
        files=np.array(list(files.values()), np.bytes_),
        categories=np.searchsorted(category_ids, [category_of[id_] for id_ in files]),
        metadata=np.array([metadata.get(id_, _NOWHEN_NOWHERE) for id_ in files], np.float64).reshape(-1, 3),
        category_ids=category_ids,
    )


def missing_files(root: Path, names: Iterable[bytes]) -> list[str]:
    """Those of the names, relative to `root`, that no file has. Reads each folder once, not each file."""
    by_folder = defaultdict(list)
    for name in names:
        by_folder[os.path.dirname(name)].append(name)  # noqa: PTH120  (Path takes no bytes)
    missing: list[str] = []
    for folder, wanted in by_folder.items():
        try:
            present = set(os.listdir(os.path.join(os.fsencode(root), folder)))  # noqa: PTH118, PTH208
        except (FileNotFoundError, NotADirectoryError):
            present = set()
        missing += [os.fsdecode(name) for name in wanted if os.path.basename(name) not in present]  # noqa: PTH119
    return missing


def _read_locations(path: Path) -> dict[Any, tuple[float, float, float]]:
    if not path.is_file():
        return {}
    content = _read_json(path)
    try:
        return {row["id"]: (_month(row["date"]), *_place(row["lat"], row["lon"])) for row in content}
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f'{path}: not the locations of iNaturalist 2018 ({error!r}), expected [{{"id": 7, "date": "2017-05-21", '
            '"lat": 48.1, "lon": 11.6}], with null for what is unknown'
        ) from error


def _month(date: str | None) -> float:
    found = _MONTH.match(date or "")
    return float(found[1]) if found and 1 <= int(found[1]) <= 12 else math.nan


def _place(latitude: float | None, longitude: float | None) -> tuple[float, float]:
    if latitude is None or longitude is None or not (abs(latitude) <= 90 and abs(longitude) <= 180):
        return math.nan, math.nan
    return float(latitude), float(longitude)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: can't be read as JSON ({error}); unpack or download it again") from error
