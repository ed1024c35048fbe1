"""Tar shards in webdataset naming: millions of samples in a few large files that are read from front to back.

A sample is the members whose paths are equal up to the first dot of the base name: `cats/12.jpg` and `cats/12.cls` are
the sample `cats/12` with the extensions `jpg` and `cls` (in lower case). Members without such a name are passed over.

A shard is indexed once. The index lies beside it (`train-000003.tar.index.npz`) or, where that can't be written, in
the cache folder (`internimage.ops.build.cache_directory`), and holds for one size and modification time of the shard.
"""

import functools
import glob
import hashlib
import io
import itertools
import os
import re
import tarfile
import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from internimage.ops.build import cache_directory
from internimage.ops.toolchain import BuildError
from internimage.weight_files import written_whole

_FORMAT = 1  # of the index; raise it with every change of `_Index`
_SMALL = 128  # bytes: members up to this size, labels above all, are kept in the index
_MOST_OPEN = 128  # shards that a process keeps open, with their indices
_THREADS = 8  # that index shards: they wait for the disk together
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NUMBER = re.compile(r"%(?:0\d+)?d")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
COMPRESSED_NAME = re.compile(r"\.(tgz|tbz2?|txz|tzst|tar\.\w+)$")

_Stamp = tuple[int, int]  # size in bytes and modification time in ns: changes with the file


class ShardError(ValueError):
    """A shard is missing, not a tar file, damaged, changed, or lacks a member. The message names it."""


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

    def texts(self, shard: int, extension: str) -> NDArray[np.bytes_]:
        """One short member of each sample of one shard, such as its label; NUL bytes at its end are lost.

        Raises:
            ShardError: a sample has no such member.
        """
        self.check(shard, extension)
        opened = self._opened(shard)
        members = np.flatnonzero(opened.index.is_one_of([extension]))
        if (opened.index.size[members] <= _SMALL).all():
            return opened.index.small[members]
        return np.array([opened.content(int(member)) for member in members], np.bytes_)

    def _locate(self, index: int) -> tuple["_OpenShard", int]:
        if not 0 <= index < len(self):
            raise IndexError(f"the shards hold samples 0 to {len(self) - 1}, got {index}")
        shard = bisect_right(self._ends, index)
        return self._opened(shard), index - (self._ends[shard] - self.sizes[shard])

    def _opened(self, shard: int) -> "_OpenShard":
        return _open(self._paths[shard], self._stamps[shard])


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
    pattern = Path(pattern)
    before, *after = _NUMBER.split(pattern.name)
    if len(after) != 1 or "%" in before + after[0] or pattern.suffix != ".tar":
        raise ValueError(f"write_shards: the name of {pattern} must hold one number and end in .tar: train-%06d.tar")
    if samples_per_shard < 1:
        raise ValueError(f"write_shards: samples_per_shard must be at least 1, got {samples_per_shard}")
    if existing := sorted(pattern.parent.glob(f"{glob.escape(before)}[0-9]*{glob.escape(after[0])}")):
        raise FileExistsError(f"write_shards: {existing[0]} is there; delete such shards first, or use a new folder")
    rest = iter(samples)
    paths: list[Path] = []
    while (first := next(rest, None)) is not None:
        path = pattern.with_name(pattern.name % len(paths))
        _write_shard(path, itertools.chain([first], itertools.islice(rest, samples_per_shard - 1)))
        paths.append(path)
    return paths


def _write_shard(path: Path, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> None:
    keys: set[str] = set()
    with written_whole(path) as temporary, tarfile.open(temporary, "w", encoding="utf-8") as archive:
        for key, contents in samples:
            if key in keys:
                raise ValueError(f"write_shards: two samples have the key {key!r}")
            keys.add(key)
            for extension, content in contents.items():
                member = tarfile.TarInfo(f"{key}.{extension}")
                if _split(member.name) != (key, extension) or "\0" in member.name:
                    raise ValueError(
                        f"write_shards: {member.name!r} doesn't read back as key {key!r} and extension {extension!r}; "
                        "the base name of a key has no dot, and an extension is in lower case"
                    )
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def _split(name: str) -> tuple[str, str] | None:
    found = _NAME.fullmatch(name)
    return (found[1], found[2].lower()) if found else None


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


@dataclass(frozen=True)
class _Index:
    """Where the members of a shard lie. Those of a sample are neighbours; samples stand in the order of the file."""

    keys: NDArray[np.bytes_]  # [samples]
    first: NDArray[np.int64]  # [samples + 1], the first member of each sample
    extensions: NDArray[np.str_]  # all that the shard has
    extension: NDArray[np.int32]  # [members], a row of `extensions`
    offset: NDArray[np.int64]  # [members], in bytes
    size: NDArray[np.int64]  # [members], in bytes
    small: NDArray[np.bytes_]  # [members], the content of those of at most _SMALL bytes, less NUL bytes at its end

    def members(self, row: int) -> dict[str, int]:
        """The members of a sample by extension."""
        return {str(self.extensions[self.extension[m]]): m for m in range(self.first[row], self.first[row + 1])}

    def is_one_of(self, extensions: Sequence[str]) -> NDArray[np.bool_]:
        """Of each member, whether it has one of the extensions."""
        return np.isin(self.extension, np.flatnonzero(np.isin(self.extensions, extensions)))

    def has(self, extensions: Sequence[str]) -> NDArray[np.bool_]:
        """Of each sample, whether one of its members has one of the extensions."""
        before = np.concatenate([[0], np.cumsum(self.is_one_of(extensions))])
        return np.diff(before[self.first]) > 0


class _OpenShard:
    """A shard and its index."""

    def __init__(self, path: Path, stamp: _Stamp) -> None:
        self._path = path
        self._stamp = stamp
        self._file = path.open("rb", buffering=0)
        found, self.index = _load_index(path)
        if found != stamp:
            raise self._changed()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def name(self, row: int) -> str:
        return f"{self._path.name}/{_decode(self.index.keys[row])}"

    def content(self, member: int) -> bytes:
        size = int(self.index.size[member])
        if size <= _SMALL:
            return bytes(self.index.small[member]).ljust(size, b"\0")
        content = _read_at(self._file, size, int(self.index.offset[member]))
        if _stamp(self._file) != self._stamp or len(content) != size:
            raise self._changed()
        return content

    def _changed(self) -> ShardError:
        return ShardError(f"{self._path}: the shard has changed while it was in use; start again from the new one")


@functools.lru_cache(maxsize=_MOST_OPEN)
def _open(path: Path, stamp: _Stamp) -> _OpenShard:
    try:
        return _OpenShard(path, stamp)
    except FileNotFoundError:
        raise ShardError(f"{path}: the shard is gone, while it was in use") from None


_seeking = threading.Lock()


def _read_at(file: io.FileIO, size: int, offset: int) -> bytes:
    """Read without moving the file's position, which forked processes share."""
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), size, offset)
    with _seeking:  # Windows has no pread, but no fork either
        file.seek(offset)
        return file.read(size)


def _stamp(file: BinaryIO | io.FileIO) -> _Stamp:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _describe(path: Path) -> tuple[_Stamp, int]:
    stamp, index = _load_index(path)
    return stamp, len(index.keys)


def _load_index(path: Path) -> tuple[_Stamp, _Index]:
    """The index of a shard and the shard's stamp at that time, from a file or made now."""
    with path.open("rb") as file:
        stamp = _stamp(file)
        beside = path.with_name(f"{path.name}.index.npz")
        for place in (beside, _cached(path)):
            if place is not None and (index := _read_index(place, stamp)) is not None:
                return stamp, index
        index = _scan(path, file)
    _write_index(path, stamp, index)
    return stamp, index


def _cached(path: Path) -> Path | None:
    try:
        folder = cache_directory()
    except BuildError:  # the user has no home folder
        return None
    digest = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]
    return folder / "shards" / f"{path.name}-{digest}.index.npz"


def _read_index(path: Path, stamp: _Stamp) -> _Index | None:
    """The index in a file, if that is whole and holds for this stamp."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if tuple(stored["version"]) != (_FORMAT, *stamp):
                return None
            return _Index(**{name: stored[name] for name in _Index.__dataclass_fields__})
    except Exception:  # of any kind: zipfile raises a dozen for damaged files
        return None


def _write_index(path: Path, stamp: _Stamp, index: _Index) -> None:
    failures = []
    for place in (path.with_name(f"{path.name}.index.npz"), _cached(path)):
        if place is None:
            continue
        try:
            with written_whole(place) as temporary, temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, version=np.array([_FORMAT, *stamp]), **vars(index))
            return
        except OSError as error:
            failures.append(f"{place} ({error.strerror})")
    raise ShardError(
        f"{path}: can't write the index of the shard to {' or to '.join(failures)}; set INTERNIMAGE_CACHE to a folder "
        "that can be written"
    )


def _scan(path: Path, file: BinaryIO) -> _Index:
    """Read all headers of a shard."""
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as archive:
            index = _scan_members(path, file, archive)
            file.seek(archive.offset)
    except ShardError:
        raise
    except (tarfile.TarError, ValueError, OverflowError) as error:  # damaged headers give all of these
        raise _not_a_tar(path, file, str(error)) from error
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile ends at a damaged header without a word
        raise ShardError(
            f"{path}: truncated or damaged at byte {archive.offset}, expected the next member or the end of the "
            "archive; copy or download it again"
        )
    return index


def _not_a_tar(path: Path, file: BinaryIO, reason: str) -> ShardError:
    file.seek(0)
    start = file.read(8)
    for signature, compression in _COMPRESSED.items():
        if start.startswith(signature):
            return ShardError(f"{path}: is compressed with {compression}; store tar files uncompressed")
    return ShardError(f"{path}: not a tar file, or truncated or damaged ({reason}); copy or download it again")


def _scan_members(path: Path, file: BinaryIO, archive: tarfile.TarFile) -> _Index:
    samples: dict[str, int] = {}
    extensions: dict[str, int] = {}
    of_sample, of_extension, offset, size = array("q"), array("i"), array("q"), array("q")
    small: list[bytes] = []
    while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # else the archive keeps them all
        if member.isdir() or (parts := _split(member.name)) is None:
            continue
        if not member.isreg() or member.issparse():
            raise ShardError(
                f"{path}: {member.name} is a link, a sparse or a special file, expected plain ones; write the shard "
                "with `tar --dereference --hard-dereference`"
            )
        of_sample.append(samples.setdefault(parts[0], len(samples)))
        of_extension.append(extensions.setdefault(parts[1], len(extensions)))
        offset.append(member.offset_data)
        size.append(member.size)
        file.seek(member.offset_data)
        small.append(file.read(member.size) if member.size <= _SMALL else b"")
    order = np.lexsort([of_extension, of_sample])
    sample, extension = np.array(of_sample)[order], np.array(of_extension)[order]
    twice = np.flatnonzero((np.diff(sample) == 0) & (np.diff(extension) == 0))
    if twice.size:
        name = f"{list(samples)[sample[twice[0]]]}.{list(extensions)[extension[twice[0]]]}"
        raise ShardError(f"{path}: two members are called {name}, so it isn't clear which one is meant; write it again")
    return _Index(
        keys=np.array([key.encode("utf-8", "surrogateescape") for key in samples], np.bytes_),
        first=np.searchsorted(sample, np.arange(len(samples) + 1)),
        extensions=np.array(list(extensions), np.str_),
        extension=extension,
        offset=np.array(offset)[order],
        size=np.array(size)[order],
        small=np.array(small, np.bytes_)[order],
    )
