"""Which implementation of the operators runs: chosen by the environment or for a block of code."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, cast, get_args

Backend = Literal["auto", "native", "torch"]


def _checked(name: str, source: str) -> Backend:
    if name not in get_args(Backend):
        raise ValueError(f"{source}: got {name!r}, expected one of {', '.join(map(repr, get_args(Backend)))}")
    return cast(Backend, name)


_backend = _checked(os.environ.get("INTERNIMAGE_BACKEND") or "auto", "environment variable INTERNIMAGE_BACKEND")


def get_backend() -> Backend:
    """The implementation in force: see `use_backend`. Starts as environment variable INTERNIMAGE_BACKEND, or "auto"."""
    return _backend


@contextmanager
def use_backend(backend: Backend) -> Iterator[None]:
    """Choose the operators' implementation inside the block, for all threads of the process.

    Args:
        backend: "auto" takes the C++ or CUDA kernel where one can be had, else pure PyTorch; "native" insists on the
            kernel; "torch" is pure PyTorch, which `torch.compile` sees through and fuses.

    Raises:
        ValueError: another name.
    """
    global _backend
    previous, _backend = _backend, _checked(backend, "use_backend")
    try:
        yield
    finally:
        _backend = previous
