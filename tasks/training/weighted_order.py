"""Samples of several sources in fixed shares of every batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.training.order import Key, Order, SampleOrder


def weighted_order(
    sizes: Sequence[Sequence[int]],
    weights: Sequence[float],
    batch_size: int,
    *,
    parts: int = 1,
    seed: int = 0,
    streams: int = 1,
    shuffle_buffer: int = 10000,
) -> SampleOrder:
    """The order of one source, or of several that are mixed by weights.

    Indices count through the sources one after the other.

    Args:
        sizes: of the pieces of each source, see `Order`.
        weights: of the sources, in any unit.
        batch_size: see `Order`, like the rest; each source has its share of it, in whole multiples of `streams`.

    Raises:
        ValueError: see `Order`; or a weight is too small for one image in every batch.
    """
    if len(sizes) == 1:
        return Order(sizes[0], batch_size, parts=parts, seed=seed, streams=streams, shuffle_buffer=shuffle_buffer)
    shares = _shares(weights, batch_size // streams)
    if 0 in shares:
        raise ValueError(
            f"the weights {list(weights)} of the sources leave one without an image in a batch of {batch_size}; give a "
            "larger --batch-size, fewer --streams or other weights"
        )
    seeds = np.random.SeedSequence(seed).generate_state(len(sizes)).tolist()
    orders = [
        Order(rows, share * streams, seed=own_seed, streams=streams, shuffle_buffer=shuffle_buffer)
        for rows, share, own_seed in zip(sizes, shares, seeds, strict=True)
    ]
    if batch_size % parts:
        raise ValueError(
            f"a batch of {batch_size} images can't be shared evenly by {parts} processes and accumulated parts; give a "
            f"--batch-size that is a multiple of {parts}"
        )
    return WeightedOrder(tuple(orders), parts)


@dataclass(frozen=True)
class WeightedOrder:
    """Several orders side by side; each goes through its own epochs.

    In a batch the samples of a source stand evenly spread, so that each part of it has the sources' shares too, and
    what a part has of a source is one section of that source's batch: with streams, near in its files.

    Args:
        orders: of the sources, in one part each.
        parts: into how many a batch is cut; divides it.
    """

    orders: tuple[Order, ...]
    parts: int

    @property
    def sizes(self) -> Sequence[int]:
        return [size for order in self.orders for size in order.sizes]

    @property
    def batch_size(self) -> int:
        """Of all sources together."""
        return sum(order.batch_size for order in self.orders)

    @property
    def steps_per_epoch(self) -> int:
        """As many steps as see as many images as there are, some of them more often than others."""
        return sum(self.sizes) // self.batch_size

    def part(self, step: int, number: int) -> list[Key]:
        """What one of the parts of a step consists of."""
        size = self.batch_size // self.parts
        first, last = number * size, (number + 1) * size
        keys: list[Iterator[Key]] = []
        start = 0
        for source, order in enumerate(self.orders):
            begin, end = (int((self._sources[:place] == source).sum()) for place in (first, last))
            keys.append(_moved(order.section(step, begin, end), start))
            start += sum(order.sizes)
        return [next(keys[source]) for source in self._sources[first:last]]

    def batches(self, rank: int, world_size: int, steps: range) -> Iterator[list[Key]]:
        """See `Order.batches`."""
        for step in steps:
            for number in range(rank, self.parts, world_size):
                yield self.part(step, number)

    @cached_property
    def _sources(self) -> NDArray[np.int64]:
        """The source of each place of a batch."""
        counts = [order.batch_size for order in self.orders]
        places = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
        return np.repeat(np.arange(len(counts)), counts)[np.argsort(places, kind="stable")]


def _moved(keys: list[Key], start: int) -> Iterator[Key]:
    return ((index + start, seed) for index, seed in keys)


def _shares(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers that sum to `total`, as near to the weights as can be (by largest remainder)."""
    exact = np.array(weights, np.float64) / np.sum(weights) * total
    shares = np.floor(exact).astype(int)
    most_lacking = np.argsort(shares - exact, kind="stable")[: total - shares.sum()]
    shares[most_lacking] += 1
    found: list[int] = shares.tolist()
    return found
