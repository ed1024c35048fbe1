"""Times variants of one job against each other: in turns, in random order, so that noise falls on all alike."""

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

Job = Callable[[], object]


@dataclass(frozen=True)
class Table:
    """What one comparison found, in seconds or in `unit`; `missing` says what could not run here and why."""

    title: str
    seconds: dict[str, list[float]]
    missing: dict[str, str]
    unit: str = "ms"

    @property
    def medians(self) -> dict[str, float]:
        return {name: statistics.median(values) for name, values in self.seconds.items()}

    @property
    def ratios(self) -> dict[str, float]:
        """Each variant's median time over that of the first variant."""
        medians = self.medians
        first = next(iter(medians.values()), 1.0)
        return {name: value / first for name, value in medians.items()}

    def lines(self) -> list[str]:
        scale = 1e3 if self.unit == "ms" else 1.0
        rows = [
            f"  {name:<42}{scale * median:10.3f} {self.unit} {ratio:8.2f} x"
            for (name, median), ratio in zip(self.medians.items(), self.ratios.values(), strict=True)
        ]
        absent = [f"  {name:<42}not run: {why}" for name, why in self.missing.items()]
        return [self.title, *rows, *absent]


def compare(
    title: str,
    variants: dict[str, Job],
    *,
    before: dict[str, Job] | None = None,
    missing: dict[str, str] | None = None,
    seconds: float = 4.0,
    seed: int = 0,
) -> Table:
    """Warm every variant up, then run all in rounds of random order: at least 5, for about `seconds` in all.

    What `before` holds for a variant runs ahead of each of its measurements, outside them.
    """
    order = random.Random(seed)
    estimates = {}
    for name, job in variants.items():
        job()
        estimates[name] = _time(job)
    rounds = max(5, int(seconds / sum(estimates.values())))
    measured: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(min(rounds, 200)):
        for name in order.sample(list(variants), len(variants)):
            if before and name in before:
                before[name]()
            measured[name].append(_time(variants[name]))
    return Table(title, measured, missing or {})


def _time(job: Job) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start
