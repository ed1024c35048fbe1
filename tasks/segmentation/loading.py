"""Samples of a segmentation data set as tensors, for the worker processes of a `torch.utils.data.DataLoader`.

A picture that can't be read doesn't stop the work: items and batches name it under "corrupt".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
import torch.utils.data
from torch import Tensor

from internimage.tasks.images import ImageError
from internimage.tasks.segmentation.augment import Augmentation, augment
from internimage.tasks.segmentation.class_names import IGNORED
from internimage.tasks.segmentation.datasets import SegmentationData
from internimage.tasks.segmentation.views import Views
from internimage.tasks.training.samples import first_readable, reason


class Item(TypedDict):
    """One training sample, or several in a batch with a first dimension N."""

    image: Tensor  # float32 [3, H, W], normalised
    labels: Tensor  # uint8 [H, W]
    corrupt: tuple[str, ...]  # why pictures can't be read, with their names


class EvalItem(TypedDict):
    """One sample of evaluation. A picture that can't be read is black, and none of its pixels has a class."""

    views: list[Tensor]  # float32 [1, 3, h, w] each, normalised
    labels: Tensor  # uint8 [H, W], of the picture's own size
    corrupt: tuple[str, ...]


class TrainSet(torch.utils.data.Dataset[Item]):
    """Augmented samples. A picture that can't be read is replaced by the next one that can."""

    def __init__(self, dataset: SegmentationData, augmentation: Augmentation) -> None:
        self._dataset = dataset
        self._augmentation = augmentation

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        """A sample by its index and the seed of its augmentation, on which alone it depends.

        Raises:
            ImageError: neither this picture nor the 99 after it can be read; the message names them.
        """
        index, seed = key
        dataset = self._dataset
        sample, corrupt = first_readable(dataset.read, index, len(dataset))
        image, labels = augment(sample.image, sample.labels, self._augmentation, np.random.default_rng(seed))
        return {"image": image, "labels": labels, "corrupt": tuple(corrupt)}


def collate(items: Sequence[Item]) -> Item:
    """Put samples into one batch."""
    return {
        "image": torch.stack([item["image"] for item in items]),
        "labels": torch.stack([item["labels"] for item in items]),
        "corrupt": tuple(name for item in items for name in item["corrupt"]),
    }


class EvalSet(torch.utils.data.Dataset[EvalItem]):
    """Samples as a segmentor sees them in evaluation, one by one, as their sizes differ."""

    def __init__(self, dataset: SegmentationData, views: Views) -> None:
        self._dataset = dataset
        self._views = views

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> EvalItem:
        corrupt: tuple[str, ...] = ()
        try:
            sample = self._dataset.read(index)
            image, labels = sample.image, sample.labels
        except (ImageError, OSError) as error:
            image, labels = np.zeros((64, 64, 3), np.uint8), np.full((64, 64), IGNORED, np.uint8)
            corrupt = (reason(error),)
        views = [view.unsqueeze(0) for view in self._views(image)]
        return {"views": views, "labels": torch.from_numpy(labels), "corrupt": corrupt}
