"""Tar shards in webdataset naming: millions of samples in a few large files that are read from front to back.

A sample is the members whose paths are equal up to the first dot of the base name: `cats/12.jpg` and `cats/12.cls` are
the sample `cats/12` with the extensions `jpg` and `cls` (in lower case). Members without such a name are passed over.
"""

import functools
import glob
import io
import itertools
import os
import re
import tarfile
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from internimage.tasks.training.shard_index import SMALL, ShardError, Stamp, load_index, split_name, stamp_of
from internimage.weight_files import written_whole

PICTURES = ("jpg", "jpeg", "png", "webp")  # extensions of the picture of a sample
COMPRESSED_NAME = re.compile(r"\.(tgz|tbz2?|txz|tzst|tar\.\w+)$")

_MOST_OPEN = 128  # shards that a process keeps open, with their indices
_THREADS = 8  # that index shards: they wait for the disk together
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NUMBER = re.compile(r"%(?:0\d+)?d")


class TarShards:
    """The samples of tar shards, by index: shard after shard, each in the order of its file.

    Reading near-sequential indices reads the files from front to back. An object may be shared by threads, and forked
    or pickled to other processes; it is small, for indices of shards are loaded when they are needed.

    Args:
        source: a folder (its *.tar files, sorted), a path, a pattern ("shards/train-{000000..000146}.tar"), or paths.

    Raises:
        ShardError: no shard is found, or one is missing, compressed, damaged or truncated, or holds a link or the same
            member twice; or no index can be written.
    """

    sizes: Sequence[int]  # samples of each shard

    def __init__(self, source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> None:
        self._paths = _find(source)
        with ThreadPoolExecutor(_THREADS) as pool:
            found = pool.map(_describe, self._paths)
            progress = tqdm(found, "indexing shards", len(self._paths), unit=" shards", delay=1, disable=None)
            described = list(progress)
        self._stamps = [stamp for stamp, _ in described]
        self.sizes = [size for _, size in described]
        self._ends = list(itertools.accumulate(self.sizes))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, bytes]:
        """All members of a sample, by extension.

        Raises:
            ShardError: the shard has changed since this object was made.
            OSError: the disk fails.
        """
        shard, row = self._locate(index)
        return {extension: shard.content(member) for extension, member in shard.index.members(row).items()}

    def name(self, index: int) -> str:
        """What messages call a sample: "train-000003.tar/cats/12"."""
        shard, row = self._locate(index)
        return shard.name(row)

    def read(self, index: int, *extensions: str) -> bytes:
        """The member of a sample that has the first of these extensions that there is.

        Raises:
            ShardError: the sample has none of them, or the shard has changed.
            OSError: the disk fails.
        """
        shard, row = self._locate(index)
        members = shard.index.members(row)
        for extension in extensions:
            if extension in members:
                return shard.content(members[extension])
        raise _lacking(shard, row, extensions)

    def check(self, shard: int, *extensions: str) -> None:
        """See that each sample of one shard has a member with one of these extensions.

        Raises:
            ShardError: the first sample that has none of them.
        """
        opened = self._opened(shard)
        lacking = np.flatnonzero(~opened.index.has(extensions))
        if lacking.size:
            raise _lacking(opened, int(lacking[0]), extensions)

    def texts(self, shard: int, extension: str, *, required: bool = True) -> NDArray[np.bytes_]:
        """One short member of each sample of one shard, such as its label; NUL bytes at its end are lost.

        Args:
            shard: its number.
            extension: of the member.
            required: every sample must have it; else those that lack it are passed over.

        Raises:
            ShardError: a sample has no such member, and must have.
        """
        if required:
            self.check(shard, extension)
        opened = self._opened(shard)
        members = np.flatnonzero(opened.index.is_one_of([extension]))
        if (opened.index.size[members] <= SMALL).all():
            return opened.index.small[members]
        return np.array([opened.content(int(member)) for member in members], np.bytes_)

    def _locate(self, index: int) -> tuple["_OpenShard", int]:
        if not 0 <= index < len(self):
            raise IndexError(f"the shards hold samples 0 to {len(self) - 1}, got {index}")
        shard = bisect_right(self._ends, index)
        return self._opened(shard), index - (self._ends[shard] - self.sizes[shard])

    def _opened(self, shard: int) -> "_OpenShard":
        return _open(self._paths[shard], self._stamps[shard])


def shards_of_split(folder: Path, split: str) -> list[Path]:
    """The tar files in a folder that hold a split: {split}*.tar, else {split}/*.tar."""
    name = glob.escape(split)
    return sorted(folder.glob(f"{name}*.tar")) or sorted(folder.glob(f"{name}/*.tar"))


def write_shards(
    samples: Iterable[tuple[str, Mapping[str, bytes]]], pattern: str | os.PathLike[str], *, samples_per_shard: int
) -> list[Path]:
    """Write samples to tar shards; each appears under its name when it is whole. Equal samples give equal files.

    Args:
        samples: of each the key, unique and without a dot in its base name, and its members by extension.
        pattern: path with a place for the number: "shards/train-%06d.tar".
        samples_per_shard: the last shard may hold fewer. A shard of 0.1 to 1 GB reads well.

    Returns:
        The paths of the shards.

    Raises:
        ValueError: the pattern has no number, or a name doesn't read back as this key and extension.
        FileExistsError: there are shards of this pattern already.
    """
    if samples_per_shard < 1:
        raise ValueError(f"write_shards: samples_per_shard must be at least 1, got {samples_per_shard}")
    path_of = numbered(pattern)
    if existing := existing_shards(pattern):
        raise FileExistsError(f"write_shards: {existing[0]} is there; delete such shards first, or use a new folder")
    rest = iter(samples)
    paths: list[Path] = []
    while (first := next(rest, None)) is not None:
        path = path_of(len(paths))
        write_shard(path, itertools.chain([first], itertools.islice(rest, samples_per_shard - 1)))
        paths.append(path)
    return paths


def numbered(pattern: str | os.PathLike[str]) -> Callable[[int], Path]:
    """Number -> path of a shard.

    Raises:
        ValueError: the pattern has no place for a number, or doesn't end in .tar.
    """
    pattern = Path(pattern)
    before, *after = _NUMBER.split(pattern.name)
    if len(after) != 1 or "%" in before + after[0] or pattern.suffix != ".tar":
        raise ValueError(f"write_shards: the name of {pattern} must hold one number and end in .tar: train-%06d.tar")
    return lambda number: pattern.with_name(pattern.name % number)


def existing_shards(pattern: str | os.PathLike[str]) -> list[Path]:
    """The files that a pattern could have named, whatever their number."""
    pattern = Path(pattern)
    before, after = _NUMBER.split(pattern.name)
    return sorted(pattern.parent.glob(f"{glob.escape(before)}[0-9]*{glob.escape(after)}"))


def write_shard(path: Path, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> None:
    """Write one shard; it appears when it is whole. See `write_shards`."""
    keys: set[str] = set()
    with written_whole(path) as temporary, tarfile.open(temporary, "w", encoding="utf-8") as archive:
        for key, contents in samples:
            if key in keys:
                raise ValueError(f"write_shards: two samples have the key {key!r}")
            keys.add(key)
            for extension, content in contents.items():
                member = tarfile.TarInfo(f"{key}.{extension}")
                if split_name(member.name) != (key, extension) or "\0" in member.name:
                    raise ValueError(
                        f"write_shards: {member.name!r} doesn't read back as key {key!r} and extension {extension!r}; "
                        "the base name of a key has no dot, and an extension is in lower case"
                    )
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def _find(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    if not isinstance(source, str | os.PathLike):
        paths = [Path(path) for path in source]
    elif Path(source).is_dir():
        paths = sorted(Path(source).glob("*.tar"))
    else:
        paths = [Path(path) for path in _expand(os.fspath(source))]
    if not paths:
        raise ShardError(f"{source}: no shard found, expected *.tar files{_hint_at_compressed(source)}")
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise ShardError(f"{len(missing)} of {len(paths)} shards are missing: {', '.join(missing[:10])}{more}")
    return paths


def _hint_at_compressed(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> str:
    if not isinstance(source, str | os.PathLike) or not Path(source).is_dir():
        return ""
    compressed = sorted(path.name for path in Path(source).iterdir() if COMPRESSED_NAME.search(path.name))
    return f"; {compressed[0]} is compressed: store tar files uncompressed" if compressed else ""


def _expand(pattern: str) -> list[str]:
    """Put each number of "{000..146}" into the pattern, the last range fastest."""
    found = _RANGE.search(pattern)
    if not found or Path(pattern).is_file():
        return [pattern]
    first, last = found[1], found[2]
    numbers = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
    return [pattern[: found.start()] + number + rest for number in numbers for rest in _expand(pattern[found.end() :])]


def _lacking(shard: "_OpenShard", row: int, extensions: Sequence[str]) -> ShardError:
    return ShardError(
        f"{shard.name(row)}: has no member {' or '.join(extensions)}; it has {', '.join(shard.index.members(row))}"
    )


class _OpenShard:
    """A shard and its index."""

    def __init__(self, path: Path, stamp: Stamp) -> None:
        self._path = path
        self._stamp = stamp
        self._file = path.open("rb")
        if stamp_of(self._file) != stamp:
            raise self._changed()
        self.index = load_index(path, self._file, stamp)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def name(self, row: int) -> str:
        return f"{self._path.name}/{self.index.key(row)}"

    def content(self, member: int) -> bytes:
        size = int(self.index.size[member])
        if size <= SMALL:
            return bytes(self.index.small[member]).ljust(size, b"\0")
        content = _read_at(self._file, size, int(self.index.offset[member]))
        if stamp_of(self._file) != self._stamp or len(content) != size:
            raise self._changed()
        return content

    def _changed(self) -> ShardError:
        return ShardError(f"{self._path}: the shard has changed while it was in use; start again from the new one")


@functools.lru_cache(maxsize=_MOST_OPEN)
def _open(path: Path, stamp: Stamp) -> _OpenShard:
    try:
        return _OpenShard(path, stamp)
    except FileNotFoundError:
        raise ShardError(f"{path}: the shard is gone, while it was in use") from None


_seeking = threading.Lock()


def _read_at(file: BinaryIO, size: int, offset: int) -> bytes:
    """Read without moving the file's position, which forked processes share."""
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), size, offset)
    with _seeking:  # Windows has no pread, but no fork either
        file.seek(offset)
        return file.read(size)


def _describe(path: Path) -> tuple[Stamp, int]:
    with path.open("rb") as file:
        stamp = stamp_of(file)
        return stamp, len(load_index(path, file, stamp).keys)
