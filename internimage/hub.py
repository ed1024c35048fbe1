"""Get weight files: released ones by name, from the release's own pages or a mirror of them, and any other by address.

Files land in the cache of `torch.hub` (`torch.hub.get_dir()`/checkpoints; the environment variable TORCH_HOME moves
it). A mirror is a folder, a file:// address or an http(s):// address under which the released files lie by their own
names; `base_url` or the environment variable INTERNIMAGE_WEIGHTS names it. Files of a folder are used where they lie.
"""

import errno
import hashlib
import http.client
import json
import logging
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from email.message import Message
from http.client import HTTPMessage
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import torch
from filelock import FileLock
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from tqdm import tqdm

from internimage import released
from internimage._version import __version__
from internimage.released import ReleasedCheckpoint
from internimage.weight_files import WeightFileError, file_format, shard_names

logger = logging.getLogger(__name__)

MIRROR_VARIABLE = "INTERNIMAGE_WEIGHTS"
HUGGING_FACE_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

_TIMEOUT_S = 30.0
_RETRIES = 5  # in a row without a byte gained
_FIRST_PAUSE_S = 1.0  # doubles with each retry
_CUT = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
_MEND = (
    f"to take the files from elsewhere, set base_url or the environment variable {MIRROR_VARIABLE} to a folder or "
    "address that holds them, or pass checkpoint=FILE"
)


class DownloadError(OSError):
    """A file could not be fetched; the message names the address, the reason and ways around it."""


def download(
    checkpoint: ReleasedCheckpoint | str,
    *,
    base_url: str | os.PathLike[str] | None = None,
    cache_dir: Path | None = None,
    sha256: str | None = None,
    progress: bool = True,
) -> Path:
    """Get a released file and return where it lies; a file that is there already is not fetched again.

    A broken download is continued by the next call, unless the file has changed or the server can't continue one.
    Any number of processes may ask for the same file.

    Args:
        checkpoint: a row of `internimage.released`, or its name.
        base_url: where the released files lie; default: INTERNIMAGE_WEIGHTS, else the release's pages.
        cache_dir: default: the cache of `torch.hub`.
        sha256: what the file's digest must be. Where the server tells a digest (Hugging Face does), a download is
            checked against that too.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: no released file has this name.
        DownloadError: the mirror lacks the file, the server refuses, the connection stays broken, or the disk is full.
        WeightFileError: what came is not a weight file, or has another digest.
    """
    row = released.get(checkpoint) if isinstance(checkpoint, str) else checkpoint
    base = os.fspath(base_url or os.environ.get(MIRROR_VARIABLE) or released.BASE_URL)
    if _scheme(base) in ("http", "https"):
        return _cached(f"{base.rstrip('/')}/{row.file}", _cache(cache_dir) / row.file, sha256, progress)
    path = _local_path(base) / row.file
    if not path.is_file():
        raise DownloadError(f"the mirror {base} has no file {row.file}; put it there ({row.url}), or {_MEND}")
    _check(path, sha256)
    return path


def fetch(
    source: str | os.PathLike[str] | ReleasedCheckpoint,
    *,
    base_url: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Path:
    """Turn what a user may name into a local file or folder, fetching it where needed.

    Args:
        source: a file or folder; an address (http, https, file); a Hugging Face repository as
            "hf://OpenGVLab/internimage_t_1k_224"; or a released checkpoint or its name.
        base_url: see `download`.
        progress: show a progress bar on stderr.

    Raises:
        FileNotFoundError: there is no such file, and no released checkpoint of this name.
        DownloadError, WeightFileError: see `download`.
    """
    if isinstance(source, ReleasedCheckpoint):
        return download(source, base_url=base_url, progress=progress)
    text = os.fspath(source)
    scheme = _scheme(text)
    if scheme in ("http", "https"):
        name = Path(urlsplit(text).path)
        # two addresses may end in the same name, e.g. model.safetensors
        unique = f"{name.stem}-{hashlib.sha256(text.encode()).hexdigest()[:8]}{name.suffix}"
        return _cached(text, _cache(None) / unique, None, progress)
    if scheme == "hf":
        return _hugging_face(text.removeprefix("hf://"))
    path = _local_path(text)
    if path.exists():
        return path
    try:
        row = released.get(text)
    except ValueError as error:
        raise FileNotFoundError(f"there is no file or folder {text}, and {error}") from error
    return download(row, base_url=base_url, progress=progress)


def _scheme(address: str) -> str:
    found = re.match(r"([a-z]+)://", address)
    return found[1] if found else ""


def _local_path(address: str) -> Path:
    if _scheme(address) == "file":
        return Path(urllib.request.url2pathname(urlsplit(address).path))
    if _scheme(address):
        raise ValueError(f"{address} must be a path or start with http://, https://, file:// or (a repository) hf://")
    return Path(address).expanduser()


def _cache(folder: Path | None) -> Path:
    return folder or Path(torch.hub.get_dir()) / "checkpoints"


def _check(path: Path, sha256: str | None) -> None:
    file_format(path)
    if sha256 is None:
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != sha256.lower():
        raise WeightFileError(
            f"{path} has the SHA-256 digest {digest.hexdigest()}, expected {sha256.lower()}; delete it and get it again"
        )


def _cached(url: str, target: Path, sha256: str | None, progress: bool) -> Path:
    if target.is_file():  # without the lock, so that a cache that can't be written serves too
        _check(target, sha256)
        return target
    lock = FileLock(target.with_name(f"{target.name}.lock"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise DownloadError(
            f"can't write to {target.parent} ({error.strerror}); set TORCH_HOME to a folder that can be written, or "
            f"get {url} yourself and pass checkpoint=FILE"
        ) from error
    try:
        if not target.is_file():  # another process may have got it while this one waited
            _download(url, target, sha256, progress)
    finally:
        lock.release()
    return target


def _download(url: str, target: Path, sha256: str | None, progress: bool) -> None:
    part = _Part(target)
    told = _receive_all(url, part, progress)
    try:
        for digest in {sha256, told.sha256}:
            _check(part.path, digest)
    except WeightFileError as error:
        part.discard()
        raise WeightFileError(f"{url}: {error}; {_MEND}") from error
    part.path.replace(target)
    part.discard()


@dataclass(frozen=True)
class _Version:
    """What tells one version of a remote file from another."""

    etag: str | None = None
    length: int | None = None
    sha256: str | None = None


class _Part:
    """The received beginning of a file, and beside it the version that it is the beginning of."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self._version_path = target.with_name(f"{target.name}.part.json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def version(self) -> _Version | None:
        try:
            return _Version(**json.loads(self._version_path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):  # none, or cut short when a process was killed
            return None

    def start(self, version: _Version) -> None:
        self.discard()
        self._version_path.write_text(json.dumps(asdict(version)))

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._version_path.unlink(missing_ok=True)


class _Changed(ConnectionError):  # noqa: N818
    """What is here is not the beginning of the file that is there."""


def _receive_all(url: str, part: _Part, progress: bool) -> _Version:
    """Receive until the file is whole, over as many connections as it takes while each brings something."""
    most, failures = part.size(), 0
    while True:
        try:
            return _receive(url, part, progress)
        except urllib.error.HTTPError as error:
            reason = f"the server answers {error.code} {error.reason}"
            if error.code not in (408, 429) and error.code < 500:
                raise DownloadError(f"can't download {url}: {reason}; {_MEND}") from error
        except _CUT as error:
            reason = str(getattr(error, "reason", "") or error or type(error).__name__)
        if part.size() > most:
            most, failures = part.size(), 0
        if failures == _RETRIES:
            raise DownloadError(
                f"can't download {url}: {reason}; {part.size()} bytes are kept, run again to continue, or {_MEND}"
            )
        logger.info("download of %s interrupted (%s), trying again", url, reason)
        time.sleep(_FIRST_PAUSE_S * 2**failures)
        failures += 1


def _receive(url: str, part: _Part, progress: bool) -> _Version:
    """Receive what is missing of `part` over one connection.

    Raises:
        _Changed: what is there can't be continued; the next call starts over.
    """
    offset, known = part.size(), part.version()
    if offset and known is not None and known.length == offset:
        return known  # whole; killed before it was renamed
    if known is None:
        offset = 0
    redirects = _Redirects()
    request = urllib.request.Request(url, headers={"User-Agent": f"internimage/{__version__}"})
    if offset and known is not None:
        request.add_header("Range", f"bytes={offset}-")
        if known.etag and not known.etag.startswith("W/"):  # a weak tag is not allowed there
            request.add_header("If-Range", known.etag)
    try:
        response = urllib.request.build_opener(redirects).open(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if offset and error.code == 416:  # the file is shorter now
            part.discard()
            raise _Changed("the file has changed") from error
        raise
    with response:
        start, version = _version(response.status, response.headers, redirects.sha256)
        if start and (start != offset or version != known):
            part.discard()
            raise _Changed("the file has changed")
        if not start:  # the whole file: the first try, a changed file, or a server that can't continue one
            part.start(version)
        _write(response, part.path, start, version.length, progress)
    if version.length is not None and part.size() < version.length:
        raise ConnectionError(f"the connection was closed after {part.size()} of {version.length} bytes")
    return version


def _version(status: int, headers: Message, sha256: str | None) -> tuple[int, _Version]:
    """Where the answer's bytes start (-1: it doesn't say), and what file they are from."""
    etag, length, start = headers["ETag"], headers["Content-Length"], 0
    if status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers["Content-Range"] or "")
        start, length = (int(found[1]), found[2]) if found else (-1, None)
    return start, _Version(etag, int(length) if length and length.isdigit() else None, sha256)


def _write(response: http.client.HTTPResponse, path: Path, start: int, length: int | None, progress: bool) -> None:
    free = shutil.disk_usage(path.parent).free
    if length is not None and length - start > free:
        raise DownloadError(_disk_full(path, f"{length - start} bytes are to come, {free} are free"))
    try:
        with (
            path.open("ab" if start else "wb") as file,
            tqdm(
                total=length,
                initial=start,
                unit="B",
                unit_scale=True,
                desc=path.stem,
                disable=not progress,
                leave=False,
            ) as bar,
        ):
            while block := response.read(1 << 16):
                file.write(block)
                bar.update(len(block))
    except _CUT:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(_disk_full(path, str(error.strerror))) from error
        raise DownloadError(f"can't write {path}: {error.strerror}; set TORCH_HOME to another folder") from error


def _disk_full(path: Path, reason: str) -> str:
    return (
        f"the disk is full: {path.parent}, {reason}; make room and run again to continue, or set TORCH_HOME to a "
        "folder on another disk"
    )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Notes the digest that Hugging Face tells in the answer that redirects to its storage."""

    sha256: str | None = None

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        linked = (headers["X-Linked-ETag"] or "").strip('"')
        if re.fullmatch("[0-9a-f]{64}", linked):
            self.sha256 = linked
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _hugging_face(address: str) -> Path:
    """Get the weight files of a repository (NAME or NAME@REVISION) into Hugging Face's own cache; their folder."""
    repository, _, revision = address.partition("@")
    try:
        return _repository_folder(repository, revision or None, local_files_only=False)
    except LocalEntryNotFoundError:  # not reachable
        return _repository_folder(repository, revision or None, local_files_only=True)
    except (HfHubHTTPError, OSError) as error:
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(f"can't download from hf://{address}: {str(error).splitlines()[0]}; {_MEND}") from error


def _repository_folder(repository: str, revision: str | None, *, local_files_only: bool) -> Path:
    def get(name: str) -> Path:
        return Path(hf_hub_download(repository, name, revision=revision, local_files_only=local_files_only))

    for name in HUGGING_FACE_FILES:
        try:
            path = get(name)
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError) and not local_files_only:
                raise
            continue
        if path.suffix == ".json":
            for shard in shard_names(path):
                get(shard)
        return path.parent
    where = "in the cache, and can't be reached" if local_files_only else "in the repository"
    raise DownloadError(f"hf://{repository}: none of {', '.join(HUGGING_FACE_FILES)} is {where}; {_MEND}")
