"""Samples for the worker processes of a `torch.utils.data.DataLoader`, whatever the task makes of them."""

from collections.abc import Callable
from typing import TypeVar

import cv2
import torch

from internimage.tasks.images import ImageError

_MOST_REPLACED = 100  # in a row
_TOLD = 10

Sample = TypeVar("Sample")


def first_readable(read: Callable[[int], Sample], index: int, count: int) -> tuple[Sample, list[str]]:
    """A sample, or if it can't be read the next one that can: training goes on without it.

    Args:
        read: index -> sample.
        index: of the sample.
        count: of samples; after the last comes the first.

    Returns:
        The sample, and why those before it could not be read, with their names.

    Raises:
        ImageError: neither this sample nor the 99 after it can be read; the message says why.
    """
    corrupt: list[str] = []
    for place in range(min(_MOST_REPLACED, count)):
        current = (index + place) % count
        try:
            return read(current), corrupt
        except (ImageError, OSError) as error:
            corrupt.append(reason(error))
    more = f"; and {len(corrupt) - _TOLD} more" if len(corrupt) > _TOLD else ""
    raise ImageError(f"{len(corrupt)} samples in a row can't be read: {'; '.join(corrupt[:_TOLD])}{more}")


def reason(error: ImageError | OSError) -> str:
    """Why a sample can't be read, after the file's name."""
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)


def worker_init(worker: int) -> None:
    """Keep a worker process to one thread: the processes share the cores."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
