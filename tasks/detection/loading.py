"""Samples of a detection data set as tensors, for the worker processes of a `torch.utils.data.DataLoader`.

A picture that can't be read doesn't stop the work: items and batches name it under "corrupt".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch.utils.data
from numpy.typing import NDArray
from torch import Tensor

from internimage.tasks.detection.augment import Augmentation, augment
from internimage.tasks.detection.datasets import DetectionData
from internimage.tasks.images import Image, ImageError
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
    """One sample of evaluation. A picture that can't be read is black."""

    image: Image  # uint8 [H, W, 3], RGB
    index: int
    corrupt: tuple[str, ...]


class TrainSet(torch.utils.data.Dataset[Item]):
    """Augmented samples. A picture that can't be read is replaced by the next one that can.

    Args:
        data: to read from.
        indices: of the pictures that are trained on; see `trainable`.
        augmentation: of each sample.
        masks: whether they are learned.
    """

    def __init__(
        self, data: DetectionData, indices: NDArray[np.int64], augmentation: Augmentation, *, masks: bool
    ) -> None:
        self._data = data
        self._indices = indices
        self._augmentation = augmentation
        self._masks = masks

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        """A sample by its place in the indices and the seed of its augmentation, on which alone it depends.

        Raises:
            ImageError: neither this picture nor the 99 after it can be read; the message names them.
        """
        index, seed = key
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


def orientations(data: DetectionData, indices: NDArray[np.int64]) -> bytes:
    """For each of these pictures 1 if it is wider than high, else 0: batches of one kind need less padding."""
    height, width = data.sizes[indices].T
    return bytes((width > height).tolist())


class EvalSet(torch.utils.data.Dataset[EvalItem]):
    """Pictures as they are, one by one, as their sizes differ. Their objects are asked of the data set."""

    def __init__(self, data: DetectionData) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> EvalItem:
        try:
            return {"image": self._data.read_image(index), "index": index, "corrupt": ()}
        except (ImageError, OSError) as error:
            image = np.zeros((*self._data.size(index), 3), np.uint8)
            return {"image": image, "index": index, "corrupt": (reason(error),)}
