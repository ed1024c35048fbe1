"""Where the pictures lie that annotations name, and how large they are where the annotations don't tell."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from internimage.tasks.folders import DatasetError, some
from internimage.tasks.images import PNG, ImageError, read_image
from internimage.tasks.resizing import Size

_HEAD = 1 << 16  # bytes of a file that tell its size, unless a note lies before it
_JPEG = b"\xff\xd8\xff"
# Start of a JPEG frame: all of the markers C0 to CF but those of tables.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_THREADS = 8


class Listings:
    """The files below a folder; asks the disk once for each folder that is looked into."""

    def __init__(self, root: Path) -> None:
        self._root = os.fsencode(root)
        self._listings: dict[bytes, frozenset[bytes]] = {}

    def first(self, candidates: Iterable[str]) -> bytes | None:
        """The first of these paths, relative to the folder, that is there."""
        for candidate in candidates:
            path = os.fsencode(candidate)
            folder, _, name = path.rpartition(b"/")
            if folder not in self._listings:
                try:
                    self._listings[folder] = frozenset(os.listdir(os.path.join(self._root, folder)))  # noqa: PTH118, PTH208
                except (OSError, ValueError):  # no such folder, or a name that none can have
                    self._listings[folder] = frozenset()
            if name in self._listings[folder]:
                return path
        return None


def find_files(root: Path, candidates: Sequence[Sequence[str]], source: str, what: str = "pictures") -> list[bytes]:
    """The file of each picture: encoded path, relative to the root.

    Args:
        root: of the data.
        candidates: where each picture may be, relative to the root.
        source: names the pictures; for messages.
        what: else is looked for; for messages.

    Raises:
        DatasetError: some are nowhere.
    """
    listings = Listings(root)
    found = [listings.first(paths) for paths in candidates]
    missing = [paths for paths, path in zip(candidates, found, strict=True) if path is None]
    if missing:
        places = " or ".join(dict.fromkeys(str(root / path) for path in missing[0]))
        raise DatasetError(
            f"{source}: {len(missing)} of {len(found)} {what} are missing: {some([paths[0] for paths in missing])}; "
            f"the first was looked for as {places}"
        )
    return [path for path in found if path is not None]


def read_sizes(root: Path, names: Sequence[bytes]) -> list[Size]:
    """Height and width of picture files, upright.

    Raises:
        DatasetError: one can't be read.
    """
    paths = [root / os.fsdecode(name) for name in names]
    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = tqdm(pool.map(_read_size, paths), "sizes of pictures", len(paths), delay=2, leave=False)
        try:
            return list(sizes)
        except (ImageError, OSError) as error:
            raise DatasetError(f"the size of a picture can't be read: {error}; mend or remove it") from error


def _read_size(path: Path) -> Size:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    size = None
    if head.startswith(PNG):
        size = int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big")
    elif head.startswith(_JPEG) and b"Exif\0\0" not in head:  # which may tell that the picture lies on its side
        size = _jpeg_size(head)
    if size is None or not min(size):
        height, width = read_image(path).shape[:2]
        size = height, width
    return size


def _jpeg_size(head: bytes) -> Size | None:
    position = 2
    while position + 9 <= len(head) and head[position] == 0xFF:
        if head[position + 1] in _FRAMES:
            return int.from_bytes(head[position + 5 : position + 7]), int.from_bytes(head[position + 7 : position + 9])
        position += 2 + int.from_bytes(head[position + 2 : position + 4])
    return None
