"""Pictures of a detection data set as a detector sees them, for the workers of a `torch.utils.data.DataLoader`."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import torch.utils.data
from torch import Tensor

from internimage.tasks.detection.datasets import DetectionData
from internimage.tasks.detection.views import Views
from internimage.tasks.images import ImageError
from internimage.tasks.training.samples import reason


class EvalItem(TypedDict):
    """One picture of evaluation. One that can't be read is black, and its objects don't count."""

    views: list[Tensor]  # float32 [3, h, w] each, normalised
    size: tuple[int, int]  # height and width of the picture
    corrupt: tuple[str, ...]  # why it can't be read, with its name


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
            image = self._dataset.read(index).image  # an object that can't be is found, too
        except (ImageError, OSError) as error:
            image = np.zeros((64, 64, 3), np.uint8)
            corrupt = (reason(error),)
        height, width = image.shape[:2]
        return {"views": self._views(image), "size": (height, width), "corrupt": corrupt}
