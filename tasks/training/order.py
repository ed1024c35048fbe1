"""In which order samples are seen: a function of the seed and the step, so that a run resumes without stored state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Key = tuple[int, int]  # index of a sample, seed of its augmentation


class SampleOrder(Protocol):
    """What the loop asks of an order."""

    @property
    def sizes(self) -> Sequence[int]:
        """Samples of each piece of the data."""

    @property
    def parts(self) -> int:
        """Into how many a batch is cut."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""

    def batches(self, rank: int, world_size: int, steps: range) -> Iterator[list[Key]]:
        """See `Order.batches`."""


@dataclass(frozen=True)
class Order:
    """The samples of each step, shuffled anew in each epoch, for any number of processes and workers.

    A step's samples depend neither on how many processes share them nor on how many workers load them. What is left
    of an epoch after its last whole batch is left out (another part in each epoch).

    With groups, each part of a batch consists of samples of one group, so that the samples of a step do depend on the
    number of parts. What is left of a group after its last whole part is left out (likewise); a group smaller than a
    part fills one with repetitions.

    Args:
        sizes: samples of each piece that is best read in one go: one number for files, or that of each tar file.
        batch_size: samples of a step, over all processes.
        parts: into how many the batch is cut: processes times accumulated parts.
        seed: of the whole run.
        streams: with several pieces, how many of them are read at the same time. A batch takes as many samples from
            each, and a process that has a stream for itself reads no other's tar files.
        shuffle_buffer: with several pieces, how many samples of a stream are shuffled together; the stream is read
            forwards.
        groups: with one piece, the group of each sample, one byte each; empty: there are none.

    Raises:
        ValueError: fewer samples than a batch, fewer pieces than streams, a batch that can't be cut so, or groups that
            don't fit the samples.
    """

    sizes: Sequence[int]
    batch_size: int
    parts: int = 1
    seed: int = 0
    streams: int = 1
    shuffle_buffer: int = 10000
    groups: bytes = b""

    def __post_init__(self) -> None:
        if self.batch_size % self.parts:
            raise ValueError(
                f"a batch of {self.batch_size} images can't be shared evenly by {self.parts} processes and accumulated "
                f"parts; give a --batch-size that is a multiple of {self.parts}"
            )
        if self.streams > len(self.sizes):
            raise ValueError(f"--streams {self.streams} needs as many tar files, there are {len(self.sizes)}")
        if self.groups and [len(self.groups)] != list(self.sizes):
            raise ValueError(f"expected the group of each of {list(self.sizes)} samples, got {len(self.groups)} groups")
        if self.steps_per_epoch < 1:
            raise ValueError(
                f"there are {sum(self.sizes)} images in {self.streams} streams, fewer than the batch of "
                f"{self.batch_size}; give a smaller --batch-size"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of an epoch: of the shortest stream that pieces can make."""
        if self.groups:
            part_size = self.batch_size // self.parts
            return sum(_parts_of(self.groups.count(group), part_size) for group in set(self.groups)) // self.parts
        if len(self.sizes) == 1:
            return self.sizes[0] // self.batch_size
        return _shortest_stream(self.sizes, self.streams) // (self.batch_size // self.streams)

    def part(self, step: int, number: int) -> list[Key]:
        """What one of the parts of a step consists of."""
        size = self.batch_size // self.parts
        return self.section(step, number * size, (number + 1) * size)

    def section(self, step: int, first: int, last: int) -> list[Key]:
        """What stands at places `first` to `last` - 1 of a step's batch."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        rows = self._epoch(epoch)
        share = self.batch_size // self.streams
        batch = rows[:, step_of_epoch * share : (step_of_epoch + 1) * share].ravel()
        return [
            (int(index), _augmentation_seed(self.seed, step, first + place))
            for place, index in enumerate(batch[first:last])
        ]

    def batches(self, rank: int, world_size: int, steps: range) -> Iterator[list[Key]]:
        """The parts that one process computes, step by step, those of a step one after the other."""
        for step in steps:
            for number in range(rank, self.parts, world_size):
                yield self.part(step, number)

    @cached_property
    def _epoch(self) -> Callable[[int], NDArray[np.int64]]:
        """An epoch's samples by streams; kept of the epoch that is read and the one that workers already fetch."""
        if self.groups:
            shuffle = partial(_grouped_epoch_of, self.groups, self.batch_size // self.parts, self.seed)
        else:
            shuffle = partial(_epoch_of, self.sizes, self.streams, self.shuffle_buffer, self.seed)
        return lru_cache(maxsize=2)(shuffle)


def _augmentation_seed(seed: int, step: int, place: int) -> int:
    return int(np.random.SeedSequence((seed, step, place)).generate_state(1, np.uint64)[0])


def _shortest_stream(sizes: Sequence[int], streams: int) -> int:
    """Samples of a stream that happened to get the smallest pieces: an epoch is as long whatever the shuffle gives."""
    pieces = len(sizes) // streams
    return sum(sorted(sizes)[:pieces])


def _epoch_of(sizes: Sequence[int], streams: int, shuffle_buffer: int, seed: int, epoch: int) -> NDArray[np.int64]:
    rng = np.random.default_rng((seed, epoch))
    if len(sizes) == 1:
        return rng.permutation(sizes[0])[None]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    pieces = rng.permutation(len(sizes))
    length = _shortest_stream(sizes, streams)
    rows = []
    for stream in range(streams):
        chosen = pieces[stream::streams]
        read = np.concatenate([np.arange(starts[piece], starts[piece] + sizes[piece]) for piece in chosen])[:length]
        # A sample moves backwards by less than the buffer, which is what a shuffle buffer does to a stream.
        place = np.arange(len(read)) + rng.uniform(0, min(shuffle_buffer, len(read)), len(read))
        rows.append(read[np.argsort(place, kind="stable")])
    return np.stack(rows)


def _parts_of(count: int, size: int) -> int:
    """Whole parts that a group of `count` samples gives."""
    return max(1, count // size)


def _grouped_epoch_of(groups: bytes, part_size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    rng = np.random.default_rng((seed, epoch))
    shuffled = rng.permutation(len(groups))
    group_of = np.frombuffer(groups, np.uint8)[shuffled]
    parts = []
    for group in np.unique(group_of):
        members = shuffled[group_of == group]
        parts.append(np.resize(members, (_parts_of(len(members), part_size), part_size)))
    return rng.permutation(np.concatenate(parts)).reshape(1, -1)
