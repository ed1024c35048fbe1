"""Samples of a classification data set as tensors, for the worker processes of a `torch.utils.data.DataLoader`.

A picture that can't be read doesn't stop the work: items and batches name it under "corrupt".
"""

from collections.abc import Sequence
from functools import partial
from typing import NotRequired, TypedDict

import numpy as np
import torch
import torch.utils.data
from torch import Tensor
from torch.utils.data import default_collate

from internimage.heads import encode_metadata
from internimage.tasks.augment import Augmentation, augment
from internimage.tasks.classification.data import Dataset, Sample
from internimage.tasks.images import Image, ImageError, decode_image, prepare
from internimage.tasks.training.samples import first_readable, reason

NO_LABEL = -1  # of a picture that can't be read


class Item(TypedDict):
    """One sample."""

    image: Tensor  # float32 [3, size, size], normalised
    label: int
    metadata: NotRequired[Tensor]  # float32 [7], see `internimage.heads.encode_metadata`
    corrupt: tuple[str, ...]  # why pictures can't be read, with their names


class Batch(TypedDict):
    """Several samples."""

    image: Tensor  # float32 [N, 3, size, size]
    label: Tensor  # int64 [N]
    metadata: NotRequired[Tensor]  # float32 [N, 7]
    corrupt: tuple[str, ...]


class TrainSet(torch.utils.data.Dataset[Item]):
    """Augmented samples. A picture that can't be read is replaced by the next one that can."""

    def __init__(self, dataset: Dataset, augmentation: Augmentation) -> None:
        self._dataset = dataset
        self._augmentation = augmentation

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        """A sample by its index and the seed of its augmentation, on which alone it depends.

        Raises:
            ImageError: neither this picture nor the 99 after it can be read; the message names them.
            ShardError: a tar shard has changed.
        """
        index, seed = key
        (sample, image), corrupt = first_readable(partial(_read, self._dataset), index, len(self._dataset))
        return _item(sample, augment(image, self._augmentation, np.random.default_rng(seed)), corrupt)


class EvalSet(torch.utils.data.Dataset[Item]):
    """Samples as the network sees them in evaluation. One that can't be read is all zeros, with the label NO_LABEL.

    So is one beyond the end, without a name under "corrupt": processes that share the samples can all take as many.

    Args:
        dataset: where the samples come from.
        size: side of the square that the network sees, in pixels.
    """

    def __init__(self, dataset: Dataset, size: int) -> None:
        self._dataset = dataset
        self._size = size

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Item:
        """A sample by its index.

        Raises:
            ShardError: a tar shard has changed.
        """
        if index >= len(self):
            return self._nothing()
        try:
            sample, image = _read(self._dataset, index)
        except (ImageError, OSError) as error:
            return self._nothing(reason(error))
        return _item(sample, prepare(image, self._size), ())

    def _nothing(self, *corrupt: str) -> Item:
        return {"image": torch.zeros(3, self._size, self._size), "label": NO_LABEL, "corrupt": corrupt}


def collate(items: Sequence[Item]) -> Batch:
    """Put samples into one batch. Metadata that one of them lacks counts as unknown, which is zeros."""
    batch: Batch = {
        "image": default_collate([item["image"] for item in items]),
        "label": torch.tensor([item["label"] for item in items]),
        "corrupt": tuple(name for item in items for name in item["corrupt"]),
    }
    if any("metadata" in item for item in items):
        batch["metadata"] = default_collate([item.get("metadata", torch.zeros(7)) for item in items])
    return batch


def _read(dataset: Dataset, index: int) -> tuple[Sample, Image]:
    sample = dataset[index]
    return sample, decode_image(sample.data, sample.name)


def _item(sample: Sample, image: Tensor, corrupt: Sequence[str]) -> Item:
    item: Item = {"image": image, "label": sample.label, "corrupt": tuple(corrupt)}
    if sample.metadata:
        month, latitude, longitude = torch.tensor(sample.metadata)[:, None]
        item["metadata"] = encode_metadata(month, latitude, longitude)[0]
    return item
