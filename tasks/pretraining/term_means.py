"""Means of what `PretrainingModel` tells of its terms, for the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from internimage.tasks.pretraining.indicators import indicators
from internimage.tasks.training.distributed import Processes


class TermMeans:
    """Sums over parts of steps; nothing is asked of the device or of other processes before `take`."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._restart()

    def _restart(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._parts = 0
        self._features: Tensor | None = None

    def add(self, result: Mapping[str, Any]) -> None:
        """Take in what the model returned for a part of a step."""
        for name, figure in result["figures"].items():
            self._sums[name] = self._sums.get(name, 0) + figure.double()
        self._features = result["features"]
        self._parts += 1

    def take(self) -> dict[str, float]:
        """Means over parts and processes, with the indicators of the last part; then begin anew."""
        if self._features is None:
            return {}
        totals = self._processes.sum(torch.stack(list(self._sums.values())))
        means = (totals / (self._parts * self._processes.world_size)).tolist()
        figures = dict(zip(self._sums, means, strict=True)) | indicators(self._features, self._processes)._asdict()
        self._restart()
        return figures
