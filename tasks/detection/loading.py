"""Samples of a detection data set as tensors, for the worker processes of a `torch.utils.data.DataLoader`.

A picture that can't be read doesn't stop the work: items and batches name it under "corrupt".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch.utils.data
from numpy.typing import NDArray
from torch import Tensor

from internimage.tasks.detection.augment import Augmentation, augment
from internimage.tasks.detection.datasets import DetectionData
from internimage.tasks.detection.views import Views
from internimage.tasks.images import ImageError
from internimage.tasks.training.samples import first_readable, reason


class Item(TypedDict):
    """One training sample."""

    image: Tensor  # float32 [3, H, W], normalised
    target: dict[str, Tensor]  # see `augment`
    corrupt: tuple[str, ...]  # why pictures can't be read, with their names


class Batch(TypedDict):
    """Several training samples, as detectors take them."""

    image: list[Tensor]
    target: list[dict[str, Tensor]]
    corrupt: tuple[str, ...]


class EvalItem(TypedDict):
    """One picture of evaluation. One that can't be read is black, and its objects don't count."""

    views: list[Tensor]  # float32 [3, h, w] each, normalised
    size: tuple[int, int]  # height and width of the picture
    corrupt: tuple[str, ...]  # why it can't be read, with its name


class TrainSet(torch.utils.data.Dataset[Item]):
    """Augmented samples. A picture that can't be read is replaced by the next one that can.

    Args:
        data: to read from.
        indices: of the pictures that are trained on; see `trainable`.
        augmentation: of each sample.
        masks: whether they are learned.
        by_class: a sample is a picture of a class that is drawn first, so that rare classes are seen as often as
            frequent ones; the place in the indices that is asked for doesn't matter then.
    """

    def __init__(
        self,
        data: DetectionData,
        indices: NDArray[np.int64],
        augmentation: Augmentation,
        *,
        masks: bool,
        by_class: bool = False,
    ) -> None:
        self._data = data
        self._indices = indices
        self._augmentation = augmentation
        self._masks = masks
        self._places = places_of_classes(data, indices) if by_class else []

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        """A sample by its place in the indices and the seed of its augmentation, on which alone it depends.

        Raises:
            ImageError: neither this picture nor the 99 after it can be read; the message names them.
        """
        index, seed = key
        if self._places:
            rng = np.random.default_rng((seed, 1))  # another one than that of the augmentation
            index = int(rng.choice(self._places[rng.integers(len(self._places))]))
        (image, target), corrupt = first_readable(lambda place: self._draw(place, seed), index, len(self))
        return {"image": image, "target": target, "corrupt": tuple(corrupt)}

    def _draw(self, place: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
        sample = self._data.read(int(self._indices[place]))
        try:
            return augment(
                sample.image, sample.objects, self._augmentation, np.random.default_rng(seed), masks=self._masks
            )
        except ValueError as error:
            raise ImageError(f"{sample.name}: {error}") from error


def collate(items: Sequence[Item]) -> Batch:
    """Put samples into one batch."""
    return {
        "image": [item["image"] for item in items],
        "target": [item["target"] for item in items],
        "corrupt": tuple(name for item in items for name in item["corrupt"]),
    }


def places_of_classes(data: DetectionData, indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """For each class that occurs, where in the indices the pictures with objects of it stand."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, index in enumerate(indices.tolist()):
        for label in np.unique(data.labels(index)).tolist():
            places[label].append(place)
    return [np.array(places[label]) for label in sorted(places)]


def orientations(data: DetectionData, indices: NDArray[np.int64]) -> bytes:
    """For each of these pictures 1 if it is wider than high, else 0: batches of one kind need less padding."""
    height, width = data.sizes[indices].T
    return bytes((width > height).tolist())


class EvalSet(torch.utils.data.Dataset[EvalItem]):
    """Pictures one by one, as their sizes differ."""

    def __init__(self, dataset: DetectionData, views: Views) -> None:
        self._dataset = dataset
        self._views = views

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> EvalItem:
        corrupt: tuple[str, ...] = ()
        try:
            image = self._dataset.read(index).image  # which also raises where an object's mask is impossible
        except (ImageError, OSError) as error:
            image = np.zeros((64, 64, 3), np.uint8)
            corrupt = (reason(error),)
        height, width = image.shape[:2]
        return {"views": self._views(image), "size": (height, width), "corrupt": corrupt}
