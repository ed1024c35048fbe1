"""What is learned from: tar shards in webdataset naming, with any mixture of pictures, texts, classes, embeddings.

| member | holds |
|---|---|
| `jpg`, `jpeg`, `png`, `webp` | the picture; every sample has one |
| `txt` | a text about it, UTF-8; or several, one a line, of which one is taken each time |
| `cls` | its category: a name or a number |
| `emb` | the representation of a text, computed before: a vector in numpy's format (.npy) |
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from internimage.tasks.folders import DatasetError, listing
from internimage.tasks.training.shards import PICTURES, TarShards, shards_of_split

SOURCES = "sources.json"

_MOST_CATEGORIES = 1_000_000  # of categories that are numbers: more is an error in the data


@dataclass(frozen=True)
class Sample:
    """One sample, as it is stored."""

    name: str  # what messages call it: shard/key
    picture: bytes
    texts: tuple[str, ...] = ()
    category: str | None = None
    embedding: bytes | None = None


@dataclass(frozen=True)
class PretrainingData:
    """The samples of all sources, one source after the other. It may be forked or pickled to other processes.

    Attributes:
        sources: their shards.
        weights: how often a batch takes from each, in any unit.
    """

    sources: tuple[TarShards, ...]
    weights: tuple[float, ...]

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    @property
    def sizes(self) -> list[Sequence[int]]:
        """Samples of each shard of each source."""
        return [source.sizes for source in self.sources]

    def __getitem__(self, index: int) -> Sample:
        """Read a sample.

        Raises:
            ShardError: the shard has changed, or the sample has no picture.
            OSError: the disk fails.
        """
        ends = list(accumulate(map(len, self.sources)))
        number = bisect_right(ends, index)
        source, place = self.sources[number], index - (ends[number] - len(self.sources[number]))
        members = source[place]
        return Sample(
            name=source.name(place),
            picture=source.read(place, *PICTURES),
            texts=_lines(members.get("txt", b"")),
            category=_category(members["cls"]) if "cls" in members else None,
            embedding=members.get("emb"),
        )

    def categories(self) -> tuple[str, ...]:
        """All categories, in the order of their labels: numbers stand for themselves, names are sorted.

        Reads the indices of the shards only.

        Raises:
            DatasetError: no sample has a category, or a number is out of range.
        """
        found: set[str] = set()
        for source in self.sources:
            for shard in range(len(source.sizes)):
                found.update(map(_category, np.unique(source.texts(shard, "cls", required=False)).tolist()))
        found.discard("")
        if not found:
            raise DatasetError("no sample has a category (a member cls); learn without: --category-weight 0")
        if not all(name.isdecimal() for name in found):
            return tuple(sorted(found))
        most = max(map(int, found))
        if most >= _MOST_CATEGORIES:
            raise DatasetError(f"category {most} is out of range, expected less than {_MOST_CATEGORIES}")
        return tuple(map(str, range(most + 1)))

    def some_texts(self, count: int) -> list[str]:
        """The texts of at most so many samples, evenly chosen."""
        chosen = np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int).tolist()
        return [text for index in chosen for text in self[index].texts]


def open_pretraining_data(place: Path, split: str) -> PretrainingData | None:
    """Open one split of the data in a folder.

    The folder holds tar shards, {split}*.tar or {split}/*.tar, as `internimage shard` writes them; or `sources.json`:

        {"train": [{"shards": "web/{000000..000414}.tar", "weight": 3}, {"shards": "labelled", "weight": 1}]}

    with paths that are relative to it, each of a folder or as `TarShards` takes them. Without weights each source has
    one as large as it is.

    Returns:
        None where there is no such split.

    Raises:
        DatasetError: sources.json isn't what it should be, or the folder is missing.
        ShardError: see `TarShards`.
    """
    place = Path(place)
    if not place.is_dir():
        raise DatasetError(f"{place}: no such folder, expected one with tar shards or {SOURCES}")
    if (place / SOURCES).is_file():
        rows = _read_sources(place / SOURCES).get(split)
        if rows is None:
            return None
        sources = tuple(TarShards(place / row["shards"]) for row in rows)
        weights = tuple(float(row.get("weight", len(source))) for row, source in zip(rows, sources, strict=True))
        return PretrainingData(sources, weights)
    shards = shards_of_split(place, split)
    if not shards:
        return None
    source = TarShards(shards)
    return PretrainingData((source,), (float(len(source)),))


def no_data(place: Path, split: str) -> DatasetError:
    """The error that a split is missing which is needed."""
    return DatasetError(
        f"{place}: holds no data called {split}, but {listing(place)}; expected tar shards {split}*.tar or "
        f"{split}/*.tar, or {SOURCES} with {split!r}; `internimage shard` writes shards from folders, CSV files and "
        "COCO captions"
    )


def _read_sources(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: is no JSON: {error}") from error
    expected = 'expected {"train": [{"shards": "web/{000..414}.tar or a folder", "weight": 1}, ...], "val": ...}'
    if not isinstance(content, dict) or not all(isinstance(rows, list) and rows for rows in content.values()):
        raise DatasetError(f"{path}: {expected}")
    for split, rows in content.items():
        for row in rows:
            if not isinstance(row, dict) or not isinstance(row.get("shards"), str) or set(row) - {"shards", "weight"}:
                raise DatasetError(f"{path}: {split} has the entry {row!r}; {expected}")
            if "weight" in row and not (isinstance(row["weight"], int | float) and row["weight"] > 0):
                raise DatasetError(f"{path}: {split} has the weight {row['weight']!r}, expected a number above 0")
        if len({"weight" in row for row in rows}) > 1:
            raise DatasetError(
                f"{path}: of the sources of {split} some have a weight and some not; give all one or none"
            )
    return content


def _category(content: bytes) -> str:
    return content.decode("utf-8", "replace").strip()


def _lines(content: bytes) -> tuple[str, ...]:
    lines = (line.strip() for line in content.decode("utf-8", "replace").splitlines())
    return tuple(line for line in lines if line)
