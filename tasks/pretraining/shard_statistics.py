"""What shards hold, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from internimage.tasks.images import Image
from internimage.tasks.training.shards import PICTURES

_SHOWN = 10


@dataclass
class Statistics:
    """Of any number of samples; those of parts add up."""

    samples: int = 0
    size: int = 0  # bytes of all members
    members: Counter[str] = field(default_factory=Counter)  # samples that have a member of the extension
    categories: Counter[str] = field(default_factory=Counter)
    text_lengths: Counter[int] = field(default_factory=Counter)  # texts by their number of characters
    sides: Counter[int] = field(default_factory=Counter)  # pictures by their shorter side, pixels
    unreadable: list[str] = field(default_factory=list)

    def add(self, members: Mapping[str, bytes], picture: Image) -> None:
        """Count a sample."""
        self.samples += 1
        self.size += sum(map(len, members.values()))
        self.members.update("picture" if extension in PICTURES else extension for extension in members)
        self.sides[min(picture.shape[:2])] += 1
        if "cls" in members:
            self.categories[members["cls"].decode("utf-8", "replace").strip()] += 1
        for line in members.get("txt", b"").decode("utf-8", "replace").splitlines():
            self.text_lengths[len(line)] += 1

    def merge(self, other: Statistics) -> None:
        """Add those of other samples."""
        self.samples += other.samples
        self.size += other.size
        for name in ("members", "categories", "text_lengths", "sides"):
            getattr(self, name).update(getattr(other, name))
        self.unreadable += other.unreadable

    def lines(self) -> list[str]:
        """A table for people."""
        rows = [f"samples       {self.samples:,}, {self.size / 1e6:,.1f} MB"]
        rows.append("members       " + ", ".join(f"{name} {count:,}" for name, count in self.members.most_common()))
        rows.append(f"shorter side  {_spread(self.sides)} pixels")
        if self.text_lengths:
            rows.append(f"texts         {self.text_lengths.total():,}, of {_spread(self.text_lengths)} characters")
        if self.categories:
            named = ", ".join(f"{name} {count:,}" for name, count in self.categories.most_common(_SHOWN))
            more = f" and {len(self.categories) - _SHOWN} more" if len(self.categories) > _SHOWN else ""
            rows.append(f"categories    {len(self.categories):,}: {named}{more}")
        if self.unreadable:
            rows.append(f"left out      {len(self.unreadable):,} that can't be read:")
            rows += [f"  {line}" for line in self.unreadable[:_SHOWN]]
        return rows


def _spread(counts: Counter[int]) -> str:
    values = np.array(sorted(counts))
    ends = np.cumsum([counts[value] for value in values.tolist()])
    median = values[np.searchsorted(ends, (ends[-1] + 1) // 2)] if len(values) else 0
    return f"{values[0]} to {values[-1]} (median {median})" if len(values) else "no"
