"""pycocotools, an optional part: found out early, imported late, and kept quiet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any


def require_pycocotools() -> None:
    """Find out before a long computation whether masks and metrics can be computed after it.

    Raises:
        ImportError: pycocotools is missing; the message has the command that installs it.
    """
    mask_tools()


def mask_tools() -> Any:
    """The module `pycocotools.mask`."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError(
            'detection needs pycocotools, which is not installed; run: pip install "internimage[detection]"'
        ) from error
    return mask


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what pycocotools prints about its progress from standard output."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield
