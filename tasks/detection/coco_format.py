"""COCO's format of objects and results, which other tools read: boxes as x, y, width, height in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.detection.objects import RLE, Found, Objects

Entry = dict[str, Any]


def to_xywh(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Corners [K, 4] -> corner and sides [K, 4], in float64, where both mean the same."""
    corners = boxes.astype(np.float64)
    corners[:, 2:] -= corners[:, :2]
    return corners


def result_entries(found: Found, image_id: int | str, category_ids: Sequence[int]) -> list[Entry]:
    """What a detector found in one picture, as `pycocotools.coco.COCO.loadRes` reads it.

    Args:
        found: in the picture.
        image_id: of the picture.
        category_ids: of the data set, by label.
    """
    entries: list[Entry] = [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score}
        for label, box, score in zip(
            found.labels.tolist(), to_xywh(found.boxes).tolist(), found.scores.tolist(), strict=True
        )
    ]
    if found.masks is not None:
        for entry, mask in zip(entries, found.masks, strict=True):
            entry["segmentation"] = text_mask(mask)
    return entries


def truth_entries(truth: Objects, image_id: int | str, category_ids: Sequence[int]) -> list[Entry]:
    """The objects of one picture as COCO's annotations, but for their ids. What is ignored becomes a crowd."""
    entries: list[Entry] = [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "area": area, "iscrowd": int(ignored)}
        for label, box, area, ignored in zip(
            truth.labels.tolist(),
            to_xywh(truth.boxes).tolist(),
            truth.areas.tolist(),
            truth.ignored.tolist(),
            strict=True,
        )
    ]
    if truth.masks is not None:
        for entry, mask in zip(entries, truth.masks, strict=True):
            entry["segmentation"] = text_mask(mask)
    return entries


def text_mask(mask: RLE) -> dict[str, Any]:
    """A mask that can be written as JSON."""
    counts = mask["counts"]
    return {"size": list(mask["size"]), "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}
