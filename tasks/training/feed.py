"""Batches from worker processes, in a fixed order, from any step on."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from internimage.tasks.training.distributed import Processes
from internimage.tasks.training.order import SampleOrder

Batch = Mapping[str, Any]  # tensors, and "corrupt": why samples could not be read, with their names

_RESTARTS = 3  # of the workers, before a run gives up


class TrainingError(ValueError):
    """Training can't go on; the message says why and what to do."""


class Feed:
    """What one process trains on: for each step the parts that it computes.

    When a worker dies (for one, killed because memory ran out), all workers are started again at the same step; as
    the order is fixed, nothing changes.

    Args:
        dataset: its items are asked for by (index, seed).
        order: which items in which step.
        processes: who shares a step.
        steps: first and last step.
        collate: list of items -> batch.
        workers: processes that load; 0 loads in this process.
        worker_init: called in each of them.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        order: SampleOrder,
        processes: Processes,
        steps: range,
        *,
        collate: Callable[[list[Any]], Mapping[str, Any]],
        workers: int,
        worker_init: Callable[[int], None] | None = None,
    ) -> None:
        self._order = order
        self._processes = processes
        self._last = steps.stop
        self._next = steps.start
        self._restarts = 0
        self._options: dict[str, Any] = {
            "dataset": dataset,
            "collate_fn": collate,
            "num_workers": workers,
            "worker_init_fn": worker_init,
            "pin_memory": processes.device.type == "cuda",
        }
        self._batches: Iterator[Batch] | None = None

    def next_step(self) -> list[Batch]:
        """The parts of the next step.

        Raises:
            TrainingError: workers died again and again.
        """
        while True:
            try:
                if self._batches is None:
                    self._batches = self._start()
                parts = [next(self._batches) for _ in range(self._order.parts // self._processes.world_size)]
            except (RuntimeError, EOFError, OSError) as error:
                if not self._options["num_workers"] or not _tells_of_a_dead_worker(error):
                    raise
                self.stop()
                self._restarts += 1
                if self._restarts > _RESTARTS:
                    raise TrainingError(
                        f"workers that load data have died {self._restarts} times, the last time at step {self._next}; "
                        "if memory is short, give fewer --workers or a smaller --batch-size"
                    ) from error
                print(f"a worker that loads data died; starting all anew at step {self._next}", file=sys.stderr)
            else:
                self._next += 1
                return parts

    def stop(self) -> None:
        """End the workers."""
        self._batches = None

    def _start(self) -> Iterator[Batch]:
        keys = self._order.batches(self._processes.rank, self._processes.world_size, range(self._next, self._last))
        with _dead_workers_found_while_waiting():
            return iter(DataLoader(batch_sampler=keys, **self._options))


def _tells_of_a_dead_worker(error: Exception) -> bool:
    """Whether a worker ended by itself; an error that one raised is passed on by torch with a text that says so."""
    if isinstance(error, RuntimeError):
        return str(error).startswith("DataLoader worker")
    # A batch that a worker finished before it died can't be fetched any more.
    broken = (EOFError, ConnectionError, FileNotFoundError)
    return isinstance(error, broken) and "in DataLoader worker process" not in str(error)


@contextmanager
def _dead_workers_found_while_waiting() -> Iterator[None]:
    """Undo torch's signal handler, which raises wherever the process happens to be when a worker dies.

    A dead worker is then found by who waits for its batch.
    """
    before = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    yield
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, before)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on a device, those in lists and dicts too; what is no tensor stays."""
    return {name: _moved(part, device) for name, part in batch.items()}


def _moved(part: Any, device: torch.device) -> Any:
    if isinstance(part, Tensor):
        return part.to(device, non_blocking=True)
    if isinstance(part, dict):
        return {name: _moved(inner, device) for name, inner in part.items()}
    if isinstance(part, list):
        return [_moved(inner, device) for inner in part]
    return part
