"""How the numbers, or colours, of label files become classes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.folders import some
from internimage.tasks.images import ImageError
from internimage.tasks.segmentation.class_names import IGNORED, ClassFile

_NO_LABEL = -1


@dataclass(frozen=True, eq=False)
class LabelValues:
    """What stands for which class in label files.

    Attributes:
        table: int16 [numbers], by number: the class, 255 for none, -1 where the number must not occur.
        palette: uint8 [classes, 3], what label files in colour hold (RGB); None: they are refused.
    """

    table: NDArray[np.int16]
    palette: NDArray[np.uint8] | None = None

    def to_labels(self, stored: NDArray[Any], name: str) -> NDArray[np.uint8]:
        """Turn the content of a label file into labels: classes, and 255 where a pixel belongs to none.

        Args:
            stored: numbers [H, W] of an unsigned type, or colours uint8 [H, W, 3].
            name: what errors call the file.

        Raises:
            ImageError: a number or colour that stands for no class; colours where numbers are expected.
        """
        if stored.ndim == 3:
            return self._labels_of_colours(stored, name)
        labels: NDArray[np.int16] = self._by_number(stored.dtype)[stored]
        if labels.min() == _NO_LABEL:
            strange, counts = np.unique(stored[labels == _NO_LABEL], return_counts=True)
            found = [f"{value} ({count} pixels)" for value, count in zip(strange, counts, strict=True)]
            raise ImageError(f"{name}: holds {some(found)}, expected {self._expected()}{self._mend(strange)}")
        return labels.astype(np.uint8)

    def _by_number(self, dtype: np.dtype[Any]) -> NDArray[np.int16]:
        numbers = np.iinfo(dtype).max + 1
        table = np.full(numbers, _NO_LABEL, np.int16)
        table[: len(self.table)] = self.table[:numbers]
        return table

    def _expected(self) -> str:
        """The numbers that stand for classes, then those that stand for none."""
        some_class = (self.table >= 0) & (self.table != IGNORED)
        return f"{_ranges(some_class)} for classes and {_ranges(self.table == IGNORED)} for none"

    def _mend(self, strange: NDArray[Any]) -> str:
        classes = int(np.sum((self.table >= 0) & (self.table != IGNORED)))
        if strange.tolist() == [classes] and self.table[0] == 0:
            return (
                f'; where 0 stands for no class and {classes} for the last, set "reduce_zero_label": true in '
                'classes.json; where there is one class more, name it in "names"'
            )
        if strange.max() > 255:
            return "; such numbers stand for single objects in most data sets: take the files of classes"
        return "; is this another version of the data, or another list of classes?"

    def _labels_of_colours(self, stored: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
        if self.palette is None:
            grey = " (its channels are equal: save one of them)" if (stored == stored[..., :1]).all() else ""
            raise ImageError(
                f"{name}: is an RGB picture{grey}, expected {self._expected()}, as a grey or indexed PNG; for data of "
                'your own, classes.json may name the colours of the classes: "palette": [[128, 64, 128], ...]'
            )
        known = _packed(self.palette)
        order = np.argsort(known)
        if (twice := np.flatnonzero(np.diff(known[order]) == 0)).size:
            first, second = order[twice[0]], order[twice[0] + 1]
            raise ImageError(
                f"{name}: is an RGB picture, and classes {min(first, second)} and {max(first, second)} have the same "
                "colour in the palette; change it, or save labels as grey PNG"
            )
        colours = _packed(stored)
        place = np.minimum(np.searchsorted(known, colours, sorter=order), len(known) - 1)
        labels = order[place].astype(np.uint8)
        strange = known[labels] != colours
        if strange.any():
            row, column = np.argwhere(strange)[0]
            colour = stored[row, column]
            count = int((stored == colour).all(axis=-1).sum())
            raise ImageError(
                f"{name}: is an RGB picture with the colour {colour.tolist()}, first in row {row}, column {column}, in "
                f"{count} pixels, which the palette of classes.json lacks; add the class, or save labels as grey PNG, "
                f"{IGNORED} where a pixel belongs to no class"
            )
        return labels


def plain(classes: int, ignored: int = IGNORED) -> LabelValues:
    """Files hold classes; `ignored` and 255 stand for none."""
    return mapped({label: label for label in range(classes)}, [ignored])


def reduced(classes: int) -> LabelValues:
    """Files hold classes plus 1; 0 and 255 stand for none."""
    return mapped({label + 1: label for label in range(classes)}, [0])


def mapped(classes: Mapping[int, int], ignored: Iterable[int]) -> LabelValues:
    """Files hold the keys of `classes`; `ignored`, even where they are among the keys, and 255 stand for none."""
    none = [*ignored, IGNORED]
    table = np.full(max(*classes, *none) + 1, _NO_LABEL, np.int16)
    table[list(classes)] = list(classes.values())
    table[none] = IGNORED
    return LabelValues(table)


def values_of(file: ClassFile) -> LabelValues:
    """What a `classes.json` says of the label files that it belongs to."""
    count = len(file.classes)
    offset = int(file.reduce_zero_label)
    values = mapped({label + offset: label for label in range(count)}, [file.ignore_index, *range(offset)])
    return LabelValues(values.table, file.classes.palette if file.has_palette else None)


def _packed(colours: NDArray[np.uint8]) -> NDArray[np.int32]:
    """One number for each colour: [..., 3] -> [...]."""
    red, green, blue = (colours[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def _ranges(chosen: NDArray[np.bool_]) -> str:
    """The places that are chosen, such as "0, 7 to 9, 11"."""
    edges = np.flatnonzero(np.diff(np.pad(chosen, 1).astype(np.int8)))
    spans = [(start, end - 1) for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)]
    return ", ".join(f"{first}" if first == last else f"{first} to {last}" for first, last in spans)
