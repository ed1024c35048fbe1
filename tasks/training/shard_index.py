"""What lies where in a tar shard: read from its headers once, then from a file.

The index of a shard lies beside it (`train-000003.tar.index.npz`) or, where that can't be written, in the cache folder
(`internimage.ops.build.cache_directory`). It holds for one size and modification time of the shard.
"""

import contextlib
import hashlib
import os
import re
import tarfile
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from internimage.ops.build import cache_directory
from internimage.ops.toolchain import BuildError
from internimage.weight_files import written_whole

SMALL = 128  # bytes: members up to this size, labels above all, are kept in the index

_FORMAT = 1  # raise it with every change of `Index`
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

Stamp = tuple[int, int]  # size in bytes and modification time in ns: changes with the file


class ShardError(ValueError):
    """A shard is missing, not a tar file, damaged, changed, or lacks a member. The message names it."""


@dataclass(frozen=True)
class Index:
    """Where the members of a shard lie. Those of a sample are neighbours; samples stand in the order of the file."""

    keys: NDArray[np.bytes_]  # [samples]
    first: NDArray[np.int64]  # [samples + 1], the first member of each sample
    extensions: NDArray[np.str_]  # all that the shard has
    extension: NDArray[np.int32]  # [members], a row of `extensions`
    offset: NDArray[np.int64]  # [members], in bytes
    size: NDArray[np.int64]  # [members], in bytes
    small: NDArray[np.bytes_]  # [members], the content of those of at most SMALL bytes, less NUL bytes at its end

    def key(self, row: int) -> str:
        """The key of a sample."""
        return bytes(self.keys[row]).decode("utf-8", "surrogateescape")

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


def split_name(name: str) -> tuple[str, str] | None:
    """Key and extension in the name of a member; None where that is no part of a sample."""
    found = _NAME.fullmatch(name)
    return (found[1], found[2].lower()) if found else None


def stamp_of(file: BinaryIO) -> Stamp:
    """What tells a file from the same one after a change."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def load_index(path: Path, file: BinaryIO, stamp: Stamp) -> Index:
    """The index of a shard, from a file or made now.

    Args:
        path: of the shard.
        file: the shard, open.
        stamp: of that file.

    Raises:
        ShardError: the shard is no tar file, compressed, damaged or truncated, or holds a link or a member twice; or
            the index can't be written.
    """
    places = _index_places(path)
    for place in places:
        if (index := _read_index(place, stamp)) is not None:
            return index
    index = _scan(path, file)
    failures = []
    for place in places:
        try:
            _write_index(place, stamp, index)
        except OSError as error:
            failures.append(f"{place} ({error.strerror})")
        else:
            return index
    raise ShardError(
        f"{path}: can't write the index of the shard to {' or to '.join(failures)}; set INTERNIMAGE_CACHE to a folder "
        "that can be written"
    )


def _index_places(path: Path) -> list[Path]:
    """Where the index of a shard may lie, the best place first."""
    places = [path.with_name(f"{path.name}.index.npz")]
    with contextlib.suppress(BuildError):  # the user has no home folder
        digest = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]
        places.append(cache_directory() / "shards" / f"{path.name}-{digest}.index.npz")
    return places


def _read_index(path: Path, stamp: Stamp) -> Index | None:
    """The index in a file, if that is whole and holds for this stamp."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if tuple(stored["version"]) != (_FORMAT, *stamp):
                return None
            return Index(**{name: stored[name] for name in Index.__dataclass_fields__})
    except Exception:  # of any kind: zipfile raises a dozen for damaged files
        return None


def _write_index(path: Path, stamp: Stamp, index: Index) -> None:
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, version=np.array([_FORMAT, *stamp]), **vars(index))


def _scan(path: Path, file: BinaryIO) -> Index:
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


def _scan_members(path: Path, file: BinaryIO, archive: tarfile.TarFile) -> Index:
    samples: dict[str, int] = {}
    extensions: dict[str, int] = {}
    of_sample, of_extension, offset, size = array("q"), array("i"), array("q"), array("q")
    small: list[bytes] = []
    while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # else the archive keeps them all
        if member.isdir() or (parts := split_name(member.name)) is None:
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
        content = b""
        if member.size <= SMALL:
            file.seek(member.offset_data)
            content = file.read(member.size)
        small.append(content)
    order = np.lexsort([of_extension, of_sample])
    sample, extension = np.array(of_sample)[order], np.array(of_extension)[order]
    twice = np.flatnonzero((np.diff(sample) == 0) & (np.diff(extension) == 0))
    if twice.size:
        name = f"{list(samples)[sample[twice[0]]]}.{list(extensions)[extension[twice[0]]]}"
        raise ShardError(f"{path}: two members are called {name}, so it isn't clear which one is meant; write it again")
    return Index(
        keys=np.array([key.encode("utf-8", "surrogateescape") for key in samples], np.bytes_),
        first=np.searchsorted(sample, np.arange(len(samples) + 1)),
        extensions=np.array(list(extensions), np.str_),
        extension=extension,
        offset=np.array(offset)[order],
        size=np.array(size)[order],
        small=np.array(small, np.bytes_)[order],
    )
