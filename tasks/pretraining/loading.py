"""Samples as tensors, for the worker processes of a `torch.utils.data.DataLoader`."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.utils.data
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from internimage.tasks.augment import Augmentation, View, draw_view
from internimage.tasks.folders import DatasetError
from internimage.tasks.images import decode_image
from internimage.tasks.pretraining.data import PretrainingData, Sample
from internimage.tasks.pretraining.geometry import relative_view
from internimage.tasks.pretraining.mixing import BLOCK
from internimage.tasks.pretraining.targets import NO_KEY, NO_LABEL
from internimage.tasks.pretraining.tokens import TextTokens, text_key
from internimage.tasks.training.samples import first_readable

Item = dict[str, Any]

_CELL = 16  # pixels of a cell of the dense map


@dataclass(frozen=True)
class Wanted:
    """What of a sample is loaded. What is left at its default is not.

    Attributes:
        augmentation: of the input view, and of the target view.
        dense: whether there is a dense target.
        other_view: its view is drawn anew; else it is the input view.
        cells: of its map that are predicted; None: all.
        categories: labels by name.
        tokens: of texts.
        embedding_width: of the stored representations of texts.
    """

    augmentation: Augmentation
    dense: bool = False
    other_view: bool = False
    cells: int | None = None
    categories: Mapping[str, int] | None = None
    tokens: TextTokens | None = None
    embedding_width: int | None = None


class PretrainingSet(torch.utils.data.Dataset[Item]):
    """Augmented samples with their targets. A picture that can't be read is replaced by the next one that can."""

    def __init__(self, data: PretrainingData, wanted: Wanted) -> None:
        self._data = data
        self._wanted = wanted

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        """A sample by its index and the seed of all that is random about it.

        Raises:
            ImageError: neither this picture nor the 99 after it can be read; the message names them.
            DatasetError: an embedding is of another width.
            ShardError: a shard has changed.
        """
        index, seed = key
        wanted, rng = self._wanted, np.random.default_rng(seed)
        (sample, picture), corrupt = first_readable(self._read, index, len(self))
        view = draw_view(picture, wanted.augmentation, rng)
        item: Item = {"image": view.pixels, "seed": seed, "corrupt": tuple(corrupt)}
        if wanted.dense:
            item |= self._dense(picture, view, rng)
        if wanted.categories is not None:
            item["label"] = wanted.categories.get(sample.category or "", NO_LABEL)
        if wanted.embedding_width is not None:
            item["embedding"], item["text_key"] = _embedding(sample, wanted.embedding_width)
        elif wanted.tokens is not None:
            text = sample.texts[int(rng.integers(len(sample.texts)))] if sample.texts else ""
            item["tokens"] = wanted.tokens(text)
            item["text_key"] = text_key(text.encode()) if text else NO_KEY
        return item

    def _read(self, index: int) -> tuple[Sample, NDArray[np.uint8]]:
        sample = self._data[index]
        return sample, decode_image(sample.picture, sample.name)

    def _dense(self, picture: NDArray[np.uint8], view: View, rng: np.random.Generator) -> Item:
        wanted = self._wanted
        target = draw_view(picture, wanted.augmentation, rng) if wanted.other_view else view
        cells = (wanted.augmentation.size // _CELL) ** 2
        item: Item = {"relative": relative_view(view, target)}
        item["cells"] = rng.permutation(cells)[: wanted.cells] if wanted.cells else np.arange(cells)
        if wanted.other_view:
            item["target_image"] = target.pixels
        return item


def collate(items: Sequence[Item], *, images: int) -> dict[str, Any]:
    """Put samples into one batch, with the masks of its mixtures.

    Args:
        items: of `PretrainingSet`.
        images: of a mixture. Consecutive samples are mixed; the seed of the first decides on the masks.
    """
    batch: dict[str, Any] = default_collate(
        [{name: part for name, part in item.items() if name not in ("seed", "corrupt")} for item in items]
    )
    rows = batch["image"].shape[-1] // BLOCK
    orders = [np.random.default_rng((item["seed"], 1)).permutation(rows**2) for item in items[::images]]
    batch["blocks"] = torch.from_numpy(np.stack(orders))
    batch["corrupt"] = tuple(name for item in items for name in item["corrupt"])
    return batch


def _embedding(sample: Sample, width: int) -> tuple[Tensor, int]:
    if sample.embedding is None:
        return torch.zeros(width), NO_KEY
    try:
        vector = np.load(io.BytesIO(sample.embedding), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DatasetError(f"{sample.name}: its emb is no vector in numpy's format (.npy): {error}") from error
    if vector.shape != (width,):
        raise DatasetError(f"{sample.name}: its emb is of shape {list(vector.shape)}, expected [{width}]")
    return torch.from_numpy(vector.astype(np.float32)), text_key(sample.embedding)
