"""Which classes a data set has, and which label each of them."""

import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.folders import DatasetError, neighbours, some

logger = logging.getLogger(__name__)

INTEGER = re.compile(r"-?[0-9]+")


class ClassList:
    """Class ids by label.

    Args:
        chosen: a file (see `read_class_file`) that also chooses the classes, so that others are left out; or ids, such
            as those of the training data, that others are not allowed beside; or None for `found`.
        found: ids that the data has, in the order of their labels where none is chosen.
        place: what messages call the data.

    Raises:
        DatasetError: an id stands twice; or see `read_class_file`.
    """

    def __init__(self, chosen: Path | Sequence[str] | None, found: Sequence[str], place: Path) -> None:
        self._place = place
        self._file: Path | None = None
        if isinstance(chosen, str | os.PathLike):  # a string is a sequence of strings, too
            self._file = Path(chosen)
            self.ids = read_class_file(self._file)
        else:
            self.ids = list(found if chosen is None else chosen)
        self._source = str(self._file or "the list of classes")
        self._labels = {id_: label for label, id_ in enumerate(self.ids)}
        if len(self._labels) < len(self.ids):
            twice = [id_ for label, id_ in enumerate(self.ids) if self._labels[id_] != label]
            raise DatasetError(f"{self._source}: names classes twice: {some(twice)}")

    def labels_of(self, found: Sequence[str], *, or_numbers: bool = False) -> NDArray[np.int64]:
        """The label of each class that the data has: -1 for those that a file leaves out, which a warning names.

        Args:
            or_numbers: what is no id, but a number, is itself a label.

        Raises:
            DatasetError: an id or label isn't in the list.
        """
        labels = np.full(len(found), -1)
        unknown = []
        for row, id_ in enumerate(found):
            if id_ in self._labels:
                labels[row] = self._labels[id_]
            elif or_numbers and INTEGER.fullmatch(id_):
                labels[row] = self._checked(int(id_))
            else:
                unknown.append(id_)
        if unknown and self._file is None:
            raise DatasetError(
                f"{self._place}: holds classes that are not in {self._source} (that of the training data, where this "
                f"is another split): {some(unknown)}; remove them, or choose the classes of all splits with a file"
            )
        if unknown:
            logger.warning("%s: left out classes that are not in %s: %s", self._place, self._source, some(unknown))
        return labels

    def _checked(self, label: int) -> int:
        if not 0 <= label < len(self.ids):
            raise DatasetError(
                f"{self._place}: label {label} is out of range, expected 0 or more and less than {len(self.ids)}, the "
                f"number of classes in {self._source}"
            )
        return label

    def check_filled(self, labels: NDArray[np.int64], *, every: bool) -> None:
        """See that there are samples at all and, with `every`, of each class.

        Raises:
            DatasetError: there are none; the message names the classes.
        """
        counts = np.bincount(labels[labels >= 0], minlength=len(self.ids))
        empty = [self.ids[label] for label in np.flatnonzero(counts == 0)]
        if not counts.any():
            raise DatasetError(f"{self._place}: holds no picture of the {len(self.ids)} classes {some(self.ids)}")
        if every and empty:
            raise DatasetError(
                f"{self._place}: {len(empty)} of {len(self.ids)} classes have no picture to learn from: {some(empty)}; "
                "add pictures, or choose the other classes with a class file"
            )


def read_class_file(path: Path) -> list[str]:
    """The class ids of a file: a JSON list (*.json), or one id a line, with a readable name after a tab.

    Raises:
        FileNotFoundError: there is no such file.
        DatasetError: it isn't text, or holds no ids.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        ids = json.loads(text) if path.suffix == ".json" else [line.partition("\t")[0] for line in text.splitlines()]
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such class file{neighbours(path)}") from None
    except ValueError as error:
        raise DatasetError(f"{path}: can't be read as a class file: {error}") from error
    if not isinstance(ids, list) or not all(isinstance(id_, str) for id_ in ids):
        raise DatasetError(f'{path}: expected a JSON list of class ids, such as ["n01440764", "n01443537"]')
    ids = [id_.strip() for id_ in ids if id_.strip()]
    if not ids:
        raise DatasetError(f"{path}: holds no class id, expected one a line, or a JSON list in a file *.json")
    return ids
