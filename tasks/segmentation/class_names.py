"""Class names and colours: of the published data sets, and of one's own in a `classes.json`. Imports no torch.

The palettes of ADE20K, Cityscapes and Mapillary Vistas are those that the data sets publish; the other data sets have
none, and take that of PASCAL VOC.
"""

import difflib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.folders import DatasetError, neighbours

IGNORED = 255  # label of pixels that belong to no class
MOST_CLASSES = IGNORED  # labels have 8 bits

_FOLDER = files("internimage.tasks.segmentation").joinpath("classes")
_DATASETS = tuple(sorted(path.name.removesuffix(".json") for path in _FOLDER.iterdir() if path.name.endswith(".json")))
_LARGEST_VALUE = 65535  # of a label file of 16 bits
_EXAMPLE = '{"names": ["road", "sky"], "palette": [[128, 64, 128], [70, 130, 180]], "ignore_index": 255}'


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes of a data set, in the order of their labels.

    Attributes:
        names: of the classes.
        palette: uint8 [classes, 3], their colours in RGB.
    """

    names: tuple[str, ...]
    palette: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class ClassFile:
    """A `classes.json`: the classes, and what label files hold that belong to them.

    Attributes:
        has_palette: whether the file names colours; otherwise those of `classes` are `colour_map`'s.
        ignore_index: value of pixels that belong to no class, beside 255.
        reduce_zero_label: label files hold 0 where a pixel belongs to no class, and the class plus 1 elsewhere.
    """

    classes: Classes
    has_palette: bool = False
    ignore_index: int = IGNORED
    reduce_zero_label: bool = False


def classes_of(dataset: str) -> Classes:
    """The classes of a published data set.

    Args:
        dataset: ade20k, cityscapes, cocostuff, mapillary, nyu40 or pascal_context59.

    Raises:
        DatasetError: another name.
    """
    if dataset not in _DATASETS:
        nearest = difflib.get_close_matches(dataset, _DATASETS) or _DATASETS
        raise DatasetError(f"no class names of a data set {dataset!r} are stored; nearest: {', '.join(nearest)}")
    return parse_classes(_FOLDER.joinpath(f"{dataset}.json").read_text(encoding="utf-8"), dataset).classes


def read_classes(path: Path) -> Classes:
    """The classes that a `classes.json` names; see `read_class_file`."""
    return read_class_file(path).classes


def read_class_file(path: Path) -> ClassFile:
    """Read a `classes.json`: an object with "names", and where wanted "palette", "ignore_index", "reduce_zero_label".

    Raises:
        DatasetError: the file is missing, isn't JSON, or holds something else; more than 255 classes.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file of classes{neighbours(path)}; expected {_EXAMPLE}") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: can't be read as a file of classes: {error}") from error
    return parse_classes(text, str(path))


def colour_map(count: int) -> NDArray[np.uint8]:
    """The first colours of PASCAL VOC's palette: uint8 [count, 3], RGB.

    The bits of an index go in turn to red, green and blue, the lowest to each one's highest bit.
    """
    index = np.arange(count)[:, None]
    bit = np.arange(8)
    channels = [(index >> (3 * bit + channel) & 1) << (7 - bit) for channel in range(3)]
    return np.stack([bits.sum(axis=1) for bits in channels], axis=1).astype(np.uint8)


def parse_classes(text: str, name: str) -> ClassFile:
    """What a `classes.json` says, from its text; see `read_class_file`. `name` is what errors call it."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DatasetError(f"{name}: isn't JSON: {error}; expected {_EXAMPLE}") from error
    if not isinstance(content, dict) or "names" not in content:
        raise DatasetError(f'{name}: expected an object with a list "names", such as {_EXAMPLE}')
    known = ("names", "palette", "ignore_index", "reduce_zero_label")
    for key in content:
        if key not in known:
            raise DatasetError(f"{name}: unknown key {key!r}, expected {', '.join(known)}")
    names = _names(content["names"], name)
    palette = content.get("palette")
    colours = colour_map(len(names) + 1)[1:] if palette is None else _palette(palette, len(names), name)
    ignored, reduce_zero = content.get("ignore_index", IGNORED), content.get("reduce_zero_label", False)
    if type(ignored) is not int or not 0 <= ignored <= _LARGEST_VALUE:
        raise DatasetError(
            f"{name}: ignore_index is {ignored!r}, expected a value of label files: 0 to {_LARGEST_VALUE}"
        )
    if type(reduce_zero) is not bool:
        raise DatasetError(f"{name}: reduce_zero_label is {reduce_zero!r}, expected true or false")
    if reduce_zero and len(names) == MOST_CLASSES:
        raise DatasetError(
            f"{name}: with reduce_zero_label the last of {len(names)} classes has no label but {IGNORED}"
        )
    return ClassFile(Classes(names, colours), palette is not None, ignored, reduce_zero)


def _names(names: Any, place: str) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise DatasetError(f'{place}: "names" must be a list of names that are not empty, such as ["road", "sky"]')
    names = [name.strip() for name in names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DatasetError(f'{place}: "names" holds these twice: {", ".join(twice)}')
    if not 0 < len(names) <= MOST_CLASSES:
        raise DatasetError(
            f"{place}: names {len(names)} classes, expected 1 to {MOST_CLASSES}: labels have 8 bits, and {IGNORED} is "
            "that of pixels that belong to no class"
        )
    return tuple(names)


def _palette(palette: Any, classes: int, place: str) -> NDArray[np.uint8]:
    if not isinstance(palette, list) or len(palette) != classes:
        got = f"{len(palette)} colours" if isinstance(palette, list) else repr(palette)
        raise DatasetError(f"{place}: its palette holds {got}, expected one for each of the {classes} classes")
    for colour in palette:
        if not isinstance(colour, list) or len(colour) != 3 or not all(_is_byte(value) for value in colour):
            raise DatasetError(f"{place}: its palette holds {colour!r}, expected [red, green, blue] from 0 to 255")
    return np.array(palette, np.uint8)


def _is_byte(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 255
