"""Files that hold tensors: which format they are in, reading them without running code from them, writing them whole.

Pickles are only read with `weights_only=True` and a short list of inert stand-ins for the few classes that the official
training code leaves beside the weights.
"""

import json
import pickle
import re
import uuid
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

Format = Literal["zip", "pickle", "safetensors"]


class WeightFileError(ValueError):
    """A file can't be read as weights: another kind of file, truncated, corrupted, or refused as unsafe."""


def file_format(path: Path) -> Format:
    """Tell the format of a weight file from its first bytes.

    Raises:
        WeightFileError: the file is empty, a web page, a Git LFS pointer, or nothing known.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"PK\x03\x04"):
        return "zip"
    if start.startswith(b"\x80") and start[1:2] <= b"\x05":
        return "pickle"
    if len(start) > 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**32:
        return "safetensors"
    if not start:
        kind = "is empty"
    elif start.startswith(b"version https://git-lfs"):
        kind = "is a Git LFS pointer, not the file itself; run `git lfs pull` where it came from"
    elif start.lstrip()[:1] in (b"<", b"{"):
        kind = f"is a web page or a server's message, not weights; it starts with {start[:60]!r}"
    else:
        kind = f"is neither a PyTorch nor a safetensors file; it starts with {start[:16]!r}"
    raise WeightFileError(f"{path} {kind}; delete it and get it again")


def read(path: Path) -> Any:
    """Read a PyTorch or safetensors file to CPU tensors; of a PyTorch file, everything that it holds.

    Raises:
        WeightFileError: see `file_format`; or the file is truncated or corrupted, or pickles something that is not on
            the list of safe names.
    """
    kind = file_format(path)
    if kind == "safetensors":
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise WeightFileError(f"{path} is truncated or corrupted ({error}); get it again") from error
    if kind == "zip":
        _check_zip(path)
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            # mapped, not read: the checkpoint and the model together may not fit in memory
            return torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "zip")
    except pickle.UnpicklingError as error:
        raise WeightFileError(_refusal(path, error)) from error
    except Exception as error:  # of any kind: a corrupted pickle is a program that goes wrong anywhere
        raise WeightFileError(f"{path} is truncated or corrupted ({_first_line(error)}); get it again") from error


def metadata(path: Path) -> dict[str, str]:
    """The text entries of a safetensors file's header."""
    with safetensors.safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def read_shards(index: Path) -> dict[str, Tensor]:
    """Read the files that a Hugging Face index (`model.safetensors.index.json`) names.

    Raises:
        FileNotFoundError: a file that the index names is missing.
        WeightFileError: see `read`.
    """
    state: dict[str, Tensor] = {}
    for name in shard_names(index):
        shard = index.parent / name
        if not shard.is_file():
            raise FileNotFoundError(f"{index} names {name}, which is not beside it; get all files of the repository")
        state.update(read(shard))
    return state


def shard_names(index: Path) -> list[str]:
    """File names in a Hugging Face index.

    Raises:
        WeightFileError: the index is not one.
    """
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise WeightFileError(f"{index} is not an index of weight files ({error!r}); get it again") from error
    for name in names:
        if Path(name).name != name:
            raise WeightFileError(f"{index} names {name!r}, which is not a plain file name")
    return names


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and rename it to `path` when the block has written it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_zip(path: Path) -> None:
    """Compare the checksums, which `torch.load` doesn't."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.CRC == 0:  # torch.serialization.set_crc32_options(False) writes none
                    continue
                with archive.open(entry) as data:
                    while data.read(1 << 20):
                        pass
    except Exception as error:  # zipfile raises a dozen kinds for corrupted headers
        raise WeightFileError(f"{path} is truncated or corrupted ({error}); get it again") from error


class _NumpyType:
    """Stands in for `numpy.dtype` when a scalar is read."""

    def __init__(self, code: str, *_: object) -> None:
        if not re.fullmatch(r"[fiub][1248]", code):
            raise pickle.UnpicklingError(f"a NumPy scalar of type {code!r} is not a number")
        self.code = code

    def __setstate__(self, state: tuple[object, ...]) -> None:
        if state[1] == ">":
            raise pickle.UnpicklingError("a big-endian NumPy scalar is not supported")


def _numpy_scalar(dtype: _NumpyType, data: bytes) -> float | int | bool:
    value: float | int | bool = np.frombuffer(data, dtype.code)[0].item()
    return value


# Official training files hold their configuration and the best accuracy beside the weights. None of this runs code of
# the file's choosing. OrderedDict, not dict: it also takes the attributes of a pickled CfgNode.
_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (OrderedDict, "yacs.config.CfgNode"),
    (_NumpyType, "numpy.dtype"),
    (_numpy_scalar, "numpy.core.multiarray.scalar"),
    (_numpy_scalar, "numpy._core.multiarray.scalar"),
]


def _refusal(path: Path, error: pickle.UnpicklingError) -> str:
    reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]  # after torch's advice
    found = re.search(r"GLOBAL (\S+)", reason)
    if not found:
        return f"{path} is corrupted, or holds something that is not safe to read ({reason})"
    return (
        f"{path} pickles {found[1]}, which is not on the list of names that are safe to read; nothing of it was run. "
        "If you trust the file, save its weights alone where it was made: "
        "torch.save({'model': checkpoint['model']}, FILE)"
    )


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
