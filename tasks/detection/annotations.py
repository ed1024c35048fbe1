"""What a data set says of its pictures, in a few flat arrays: cheap to keep, and shared by forked processes."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.detection.objects import Ancestors, Frequency, Objects, Verified
from internimage.tasks.detection.stored_masks import Ragged, StoredMasks, mask_area
from internimage.tasks.folders import DatasetError, some
from internimage.tasks.resizing import Size


@dataclass(frozen=True, eq=False)
class Annotations:
    """All pictures and objects of a split; see `Collector`.

    Attributes:
        classes: names, by label.
        category_ids: the source's number of each class.
        frequencies: of the classes, by label; None: the source doesn't tell.
        ancestors: labels of the classes that each class is a kind of, by label; None: there is no hierarchy.
        names: [N], encoded paths of the pictures, relative to the root.
        image_ids: [N], the source's numbers, or encoded texts; objects, if they are too large or mixed.
        sizes: int32 [N, 2], height and width.
        ends: int64 [N + 1], 0, and where the objects of each picture end in the arrays below.
        boxes: float32 [M, 4], clipped to the picture.
        labels: int64 [M].
        ignored: bool [M].
        areas: float32 [M]; NaN: the source doesn't tell.
        mask_numbers: int64 [M], in `masks`.
        masks: None unless every object has one.
        present: labels that were verified to be in each picture, beside those of its objects; None: the source
            doesn't tell.
        absent: labels that were verified not to be there; likewise.
        incomplete: labels of which not every object is marked; likewise.
        dropped: what was left out, in words.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    frequencies: tuple[Frequency, ...] | None
    ancestors: Ancestors | None
    names: NDArray[np.bytes_]
    image_ids: NDArray[Any]
    sizes: NDArray[np.int32]
    ends: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    areas: NDArray[np.float32]
    mask_numbers: NDArray[np.int64]
    masks: StoredMasks | None
    present: Ragged | None
    absent: Ragged | None
    incomplete: Ragged | None
    dropped: tuple[str, ...]

    def size(self, index: int) -> Size:
        height, width = self.sizes[index].tolist()
        return height, width

    def objects(self, index: int) -> Objects:
        """The objects of a picture.

        Raises:
            ValueError: a mask is impossible; see `StoredMasks.read`.
        """
        rows = slice(*self.ends[index : index + 2].tolist())
        boxes, areas = self.boxes[rows], self.areas[rows]
        masks = None
        sizes = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        if self.masks is not None:
            masks = tuple(self.masks.read(number, self.size(index)) for number in self.mask_numbers[rows].tolist())
            sizes = np.array([mask_area(mask) for mask in masks], np.float32)
        areas = np.where(np.isnan(areas), sizes, areas)
        return Objects(boxes, self.labels[rows], self.ignored[rows], areas, masks)

    def labels_in(self, index: int) -> NDArray[np.int64]:
        return self.labels[slice(*self.ends[index : index + 2].tolist())]

    def verified(self, index: int) -> Verified | None:
        if self.present is None or self.absent is None or self.incomplete is None:
            return None
        present, absent, incomplete = (
            frozenset(rows[index].tolist()) for rows in (self.present, self.absent, self.incomplete)
        )
        return Verified(present.union(self.labels_in(index).tolist()), absent, incomplete)


class Collector:
    """Takes up pictures and objects, the latter in any order, and makes `Annotations` of them.

    Args:
        source: what messages call it.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._names: list[bytes] = []
        self._ids: list[int | str] = []
        self._sizes = array("i")
        self._pictures = array("q")  # of each object
        self._boxes = array("d")
        self._labels = array("q")
        self._ignored = array("b")
        self._areas = array("d")
        self._has_mask = array("b")
        self._spoilt_masks = array("b")
        self._masks = StoredMasks()
        self._present, self._absent, self._incomplete = Ragged("q"), Ragged("q"), Ragged("q")

    def add_picture(self, name: bytes, image_id: int | str, size: Size) -> int:
        """Take up a picture; returns its number.

        Args:
            name: encoded path, relative to the root.
            image_id: of the source.
            size: height and width.
        """
        self._names.append(name)
        self._ids.append(image_id)
        self._sizes.extend(size)
        return len(self._names) - 1

    def add_verified(self, verified: Verified) -> None:
        """What is known of the classes in one picture; for each of them in turn, or for none."""
        self._present.append(verified.present)
        self._absent.append(verified.absent)
        self._incomplete.append(verified.incomplete)

    def add_object(
        self,
        picture: int,
        box: Sequence[float],
        label: int,
        *,
        ignored: bool = False,
        area: float = np.nan,
        segmentation: Any = None,
    ) -> None:
        """Take up an object.

        Args:
            picture: its number.
            box: corners x1, y1, x2, y2 in pixels.
            label: of its class.
            ignored: see `Objects`.
            area: in pixels; NaN: that of mask or box.
            segmentation: see `StoredMasks.append`.

        Raises:
            ValueError: see `StoredMasks.append`.
        """
        size = self._sizes[2 * picture], self._sizes[2 * picture + 1]
        has_mask = self._masks.append(segmentation, size)
        self._has_mask.append(has_mask)
        self._spoilt_masks.append(bool(segmentation) and not has_mask)
        self._pictures.append(picture)
        self._boxes.extend(box)
        self._labels.append(label)
        self._ignored.append(ignored)
        self._areas.append(area)

    def finish(
        self,
        classes: Sequence[str],
        category_ids: Sequence[int],
        *,
        frequencies: Sequence[Frequency] | None = None,
        ancestors: Ancestors | None = None,
    ) -> Annotations:
        """Clip the boxes, drop objects with impossible boxes or masks, sort the others by their pictures.

        Raises:
            DatasetError: no picture.
        """
        if not self._names:
            raise DatasetError(f"{self._source}: names no picture")
        pictures = np.array(self._pictures)
        sizes = np.array(self._sizes).reshape(-1, 2)
        boxes, fault = _clipped(np.array(self._boxes).reshape(-1, 4), sizes[pictures])
        fault[np.array(self._spoilt_masks, np.bool_) & (fault == 0)] = _FAULTS.index(_SPOILT)
        remarks = [
            f"{self._source}: {count} of {len(boxes)} objects are left out, {text}: in "
            f"{some([self._names[picture].decode(errors='replace') for picture in np.unique(pictures[fault == kind])])}"
            for kind, text in enumerate(_FAULTS)
            if kind and (count := int((fault == kind).sum()))
        ]
        kept = np.flatnonzero(fault == 0)
        without = int((~np.array(self._has_mask, np.bool_)[kept]).sum())
        if 0 < without < len(kept):
            remarks.append(
                f"{self._source}: {without} of {len(kept)} objects have no mask, so the masks of the others are not "
                "used; give masks to all to learn them"
            )
        kept = kept[np.argsort(pictures[kept], kind="stable")]
        federated = len(self._present) > 0
        return Annotations(
            classes=tuple(classes),
            category_ids=tuple(category_ids),
            frequencies=None if frequencies is None else tuple(frequencies),
            ancestors=ancestors,
            names=np.array(self._names, np.bytes_),
            image_ids=_ids(self._ids),
            sizes=sizes,
            ends=np.searchsorted(pictures[kept], np.arange(len(sizes) + 1)),
            boxes=boxes[kept],
            labels=np.array(self._labels)[kept],
            ignored=np.array(self._ignored, np.bool_)[kept],
            areas=np.array(self._areas, np.float32)[kept],
            mask_numbers=kept,
            masks=self._masks if len(kept) and not without else None,
            present=self._present if federated else None,
            absent=self._absent if federated else None,
            incomplete=self._incomplete if federated else None,
            dropped=tuple(remarks),
        )


_NOT_FINITE = "as their boxes are not finite"
_NO_AREA = "as their boxes have no width or no height"
_OUTSIDE = "as they lie outside their pictures"
_SPOILT = "as their masks have no polygon of three points"
_FAULTS = ("", _NOT_FINITE, _NO_AREA, _OUTSIDE, _SPOILT)


def _clipped(boxes: NDArray[np.float64], sizes: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes within pictures of these sizes, and which of the faults each has."""
    height, width = sizes.T
    clipped = np.clip(boxes, 0, np.stack((width, height, width, height), axis=1)).astype(np.float32)
    fault = np.zeros(len(boxes), np.int64)
    fault[(clipped[:, 2:] <= clipped[:, :2]).any(axis=1)] = _FAULTS.index(_OUTSIDE)
    fault[(boxes[:, 2:] <= boxes[:, :2]).any(axis=1)] = _FAULTS.index(_NO_AREA)
    fault[~np.isfinite(boxes).all(axis=1)] = _FAULTS.index(_NOT_FINITE)
    return clipped, fault


def _ids(ids: Sequence[int | str]) -> NDArray[Any]:
    if all(isinstance(image_id, str) for image_id in ids):
        return np.array([str(image_id).encode() for image_id in ids], np.bytes_)
    if all(isinstance(image_id, int) and abs(image_id) < 1 << 63 for image_id in ids):
        return np.array(ids, np.int64)
    return np.array(ids, object)
