"""Parts that the reports of several tasks share. Knows no task."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NAME_WIDTH = 40  # of a table's column of class names


def check_names(names: Sequence[str], classes: int) -> None:
    """
    Raises:
        ValueError: there are more or fewer names than classes.
    """
    if len(names) != classes:
        raise ValueError(f"Report: expected {classes} names, one a class, got {len(names)}")


def fit_name(name: str) -> str:
    """The name, cut to the width of its column."""
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"


def list_names(names: list[str], most: int) -> str:
    """The first of the names in one line, and how many more there are."""
    more = f"; and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(map(fit_name, names[:most])) + more


def matrix_entries(matrix: NDArray[np.int64]) -> list[list[int]]:
    """Row, column and value of what is not zero."""
    rows, columns = matrix.nonzero()
    entries: list[list[int]] = np.stack([rows, columns, matrix[rows, columns]], axis=1).tolist()
    return entries
