"""Folders of data sets: what lies in them, for reading and for messages. Knows no task."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

_SHOWN = 10  # names in a message


class DatasetError(ValueError):
    """A data set that can't be used as it is. The message names the place, what is there and what was expected."""


def files_below(folder: bytes, suffixes: tuple[bytes, ...], name: bytes = b"") -> Iterator[bytes]:
    """The files in a folder and in the folders below it, in no order.

    Symbolic links are followed; names that start with a dot are passed over.

    Args:
        folder: encoded path; bytes take half the memory of strings, and file names need not be valid text.
        suffixes: ends of the names that count, in small letters; those of files may be capital.
        name: path that takes the place of the folder's in the result; empty: none.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            path = name + b"/" + entry.name if name else entry.name
            if entry.is_dir():  # asks the disk about symbolic links only
                yield from files_below(entry.path, suffixes, path)
            elif entry.name.lower().endswith(suffixes):
                yield path


def some(names: Sequence[str]) -> str:
    """The first names of what may be many."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def listing(folder: Path) -> str:
    """What lies in a folder, for a message."""
    return some(sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())) or "nothing"


def neighbours(path: Path) -> str:
    """The end of a message that `path` is missing: what lies where it was looked for."""
    return f"; {path.parent} holds {listing(path.parent)}" if path.parent.is_dir() else ""
