"""Names of the classes of detectors: of the published data sets, and of one's own in a `classes.json`. No torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from internimage.tasks.folders import DatasetError, neighbours

_FOLDER = files("internimage.tasks.detection").joinpath("classes")
# Names of lists of classes by the data sets of the official configurations.
_STORED = {"COCO": "coco", "Pascal VOC": "voc", "CrowdHuman": "crowd_human"}
_EXAMPLE = '{"names": ["cat", "dog"], "category_ids": [17, 18]}'


@dataclass(frozen=True)
class Classes:
    """The classes of a data set, in the order of their labels.

    Attributes:
        names: of the classes.
        category_ids: that results in COCO's format call the classes by.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    def to_json(self) -> str:
        """What `parse_classes` reads."""
        return json.dumps({"names": self.names, "category_ids": self.category_ids})


def classes_of(dataset: str) -> Classes:
    """The classes of a data set, by the name that configurations have for it.

    Raises:
        DatasetError: the names are not stored here.
    """
    if dataset not in _STORED:
        raise DatasetError(
            f"the names of the classes of {dataset or 'these weights'} are not stored; give them as --classes FILE, "
            f"such as {_EXAMPLE}"
        )
    name = _STORED[dataset]
    return parse_classes(_FOLDER.joinpath(f"{name}.json").read_text(encoding="utf-8"), name)


def read_classes(path: Path) -> Classes:
    """Read a `classes.json`: a list of names, or an object with "names" and, where wanted, "category_ids".

    Raises:
        DatasetError: the file is missing, isn't JSON, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file of classes{neighbours(path)}; expected {_EXAMPLE}") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: can't be read as a file of classes: {error}") from error
    return parse_classes(text, str(path))


def parse_classes(text: str, place: str) -> Classes:
    """What a `classes.json` says, from its text; `place` is what errors call it. Ids count from 1 if none are given."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DatasetError(f"{place}: isn't JSON: {error}; expected {_EXAMPLE}") from error
    if isinstance(content, list):
        content = {"names": content}
    if not isinstance(content, dict) or "names" not in content or set(content) - {"names", "category_ids"}:
        raise DatasetError(f'{place}: expected a list of names, or an object with "names", such as {_EXAMPLE}')
    names = _checked(content["names"], str, "names", place)
    names = [name.strip() for name in names]
    if "" in names:
        raise DatasetError(f'{place}: "names" holds an empty one')
    ids = _checked(content.get("category_ids", list(range(1, len(names) + 1))), int, "category_ids", place)
    if len(ids) != len(names):
        raise DatasetError(f"{place}: expected as many category_ids as names, got {len(ids)} and {len(names)}")
    return Classes(tuple(names), tuple(ids))


def _checked(values: Any, kind: type, key: str, place: str) -> list[Any]:
    if not isinstance(values, list) or not values or any(type(value) is not kind for value in values):
        raise DatasetError(f'{place}: "{key}" must be a list, not empty, as in {_EXAMPLE}')
    if twice := _twice(values):
        raise DatasetError(f'{place}: "{key}" holds these twice: {", ".join(map(str, twice))}')
    return values


def _twice(values: Sequence[Any]) -> list[Any]:
    return sorted(value for value, times in Counter(values).items() if times > 1)
