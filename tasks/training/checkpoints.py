"""Checkpoints of a run: sharded, written whole or not at all, verified before they are used.

A checkpoint is a folder `step-00012345`. Each process writes its own shards as safetensors files by
`torch.distributed.checkpoint`, so that any number of processes can read them back; `state.json` holds everything that
is not a tensor, and the checksums of the other files. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from internimage.checkpoint import save_state_dict
from internimage.tasks.training.averaging import Average
from internimage.tasks.training.distributed import Processes

_FORMAT = "internimage training checkpoint 1"
_STATE = "state.json"
_FOLDER = re.compile(r"step-(\d{8})")

State = dict[str, Any]


class CheckpointError(ValueError):
    """A folder can't be used as a checkpoint; the message says why."""


class Checkpoints:
    """The checkpoints of one run, in one folder.

    Args:
        folder: made when the first one is saved.
        processes: all of them call every method.
        keep: how many of the newest to keep.
    """

    def __init__(self, folder: Path, processes: Processes, keep: int) -> None:
        self.folder = folder
        self._processes = processes
        self._keep = keep

    def save(self, step: int, model: nn.Module, optimizer: Optimizer, average: Average | None, state: State) -> Path:
        """Write the checkpoint after `step` steps, then remove the oldest ones.

        Args:
            step: how many steps have been taken.
            model: as it trains, wrapped or sharded.
            optimizer: of it.
            average: of it.
            state: what else to keep; JSON.

        Raises:
            OSError: it could not be written, for one because the disk is full; older ones are untouched.
        """
        target = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".{target.name}.tmp"
        if self._processes.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        self._processes.wait()
        try:
            with _as_os_error(temporary), _alone_is_meant():
                state_dict_saver.save(
                    _tensors(model, optimizer, average),
                    storage_writer=HuggingFaceStorageWriter(str(temporary), save_distributed=True),
                    no_dist=self._processes.world_size == 1,
                )
            checksums = self._checksums(temporary, sorted(path.name for path in temporary.iterdir()))
            failure = None
            if self._processes.is_main:
                failure = _finish(temporary, target, {"format": _FORMAT, "files": checksums, "step": step, **state})
            failure = self._processes.gather(failure)[0]
            if failure:
                raise OSError(failure)
        finally:
            if self._processes.is_main:
                shutil.rmtree(temporary, ignore_errors=True)
        if self._processes.is_main:
            for old in self.found()[self._keep :]:
                shutil.rmtree(old, ignore_errors=True)
        return target

    def found(self) -> list[Path]:
        """The folders that look like checkpoints, newest first."""
        if not self.folder.is_dir():
            return []
        return sorted((path for path in self.folder.iterdir() if _FOLDER.fullmatch(path.name)), reverse=True)

    def load_newest(self, model: nn.Module, optimizer: Optimizer, average: Average | None) -> State | None:
        """Load the newest checkpoint that is whole; what is not is reported and passed over.

        Returns:
            Its state, with "step"; None where there is no checkpoint at all.

        Raises:
            CheckpointError: there are some, but none can be used.
        """
        folders = self._processes.gather(self.found())[0]
        problems = []
        for folder in folders:
            try:
                return self._load(folder, model, optimizer, average)
            except CheckpointError as error:
                problems.append(str(error))
                if self._processes.is_main:
                    print(f"skipped a checkpoint: {error}", file=sys.stderr)
        if problems:
            raise CheckpointError(
                f"none of the {len(problems)} checkpoints in {self.folder} can be used: {'; '.join(problems)}. Move "
                "them away to start from the beginning"
            )
        return None

    def _load(self, folder: Path, model: nn.Module, optimizer: Optimizer, average: Average | None) -> State:
        state = read_state(folder)
        checksums = self._checksums(folder, list(state["files"]))
        for name, expected in state["files"].items():
            if checksums[name] != expected:
                raise CheckpointError(f"{folder / name} is {'missing' if checksums[name] is None else 'damaged'}")
        tensors = _tensors(model, optimizer, average)
        _check_names(folder, tensors)
        _read(folder, tensors, no_dist=self._processes.world_size == 1)
        _put_back(tensors, model, optimizer, average)
        return state

    def _checksums(self, folder: Path, names: list[str]) -> dict[str, str | None]:
        """SHA-256 of the files, each computed by one of the processes; None for a missing one."""
        processes = self._processes
        own = {name: _checksum(folder / name) for name in names[processes.rank :: processes.world_size]}
        return {name: value for part in processes.gather(own) for name, value in part.items()}


def read_state(folder: Path) -> State:
    """What a checkpoint holds beside its tensors.

    Raises:
        CheckpointError: it is not one of ours, or its `state.json` is missing or damaged.
    """
    try:
        state = json.loads((folder / _STATE).read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no {_STATE}: it is no checkpoint, or was not written to its end") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder / _STATE} is damaged ({error})") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise CheckpointError(f"{folder} was not written by this version: expected format {_FORMAT!r} in {_STATE}")
    return cast(State, state)


def read_weights(folder: Path, *, average: bool = False) -> dict[str, Tensor]:
    """The whole weights of a checkpoint, however many processes wrote it.

    Args:
        folder: of the checkpoint.
        average: the moving average instead.

    Raises:
        CheckpointError: it is no checkpoint, or holds no average.
    """
    read_state(folder)
    prefix = "average." if average else "model."
    stored = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(cast(Any, row).size, dtype=cast(Any, row).properties.dtype)
        for name, row in stored.items()
        if name.startswith(prefix)
    }
    if not tensors:
        raise CheckpointError(f"{folder} holds no moving average; leave --average away")
    _read(folder, tensors, no_dist=True)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def save_weights(model: nn.Module, path: Path, metadata: dict[str, str], processes: Processes) -> None:
    """Save a model's weights alone, whole, as safetensors; every process calls it, as sharded weights need all."""
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if processes.is_main:
        save_state_dict({name: cast(Tensor, weight).contiguous() for name, weight in state.items()}, path, metadata)


def _tensors(model: nn.Module, optimizer: Optimizer, average: Average | None) -> dict[str, Tensor]:
    """All tensors of a run by name; those of parameters are the parameters themselves."""
    found = {f"model.{name}": cast(Tensor, tensor) for name, tensor in get_model_state_dict(model).items()}
    for name, entry in get_optimizer_state_dict(model, optimizer, options=_FLAT).items():
        if isinstance(entry, Tensor):
            found[f"optimizer.{name}"] = entry
    if average is not None:
        found |= {f"average.{name}": tensor for name, tensor in average.values.items()}
    return found


def _put_back(tensors: dict[str, Tensor], model: nn.Module, optimizer: Optimizer, average: Average | None) -> None:
    def part(prefix: str) -> dict[str, Any]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    set_model_state_dict(model, part("model."))
    settings = get_optimizer_state_dict(model, optimizer, options=_FLAT)
    set_optimizer_state_dict(model, optimizer, settings | part("optimizer."), options=_FLAT)
    if average is not None:
        average.values |= part("average.")


def _check_names(folder: Path, tensors: dict[str, Tensor]) -> None:
    stored = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    missing = [name for name in tensors if name not in stored]
    extra = [name for name in stored if name not in tensors]
    other = [name for name in tensors if name in stored and cast(Any, stored[name]).size != tensors[name].shape]
    if missing or extra or other:
        raise CheckpointError(
            f"{folder} is of another model or optimiser: "
            + ", ".join(
                f"{len(names)} entries {kind}, such as {names[0]}"
                for names, kind in ((missing, "are missing"), (extra, "too many"), (other, "have another shape"))
                if names
            )
        )


def _read(folder: Path, tensors: dict[str, Tensor], *, no_dist: bool) -> None:
    with _alone_is_meant():
        state_dict_loader.load(
            cast(dict[str, Any], tensors),
            storage_reader=HuggingFaceStorageReader(str(folder)),
            no_dist=no_dist,
        )


@contextmanager
def _alone_is_meant() -> Iterator[None]:
    """Without torch's warning that there is only one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield


@contextmanager
def _as_os_error(folder: Path) -> Iterator[None]:
    """Whatever way a process failed to write, say so as OSError; torch wraps the errors of all processes."""
    try:
        yield
    except (CheckpointException, RuntimeError, OSError) as error:
        failures = getattr(error, "failures", {0: (error,)})
        reason = next(iter(failures.values()))[0]
        raise OSError(f"{folder}: could not be written: {str(reason).splitlines()[0]}") from error


def _finish(temporary: Path, target: Path, state: State) -> str | None:
    """Write the state and give the folder its name; returns what went wrong."""
    try:
        (temporary / _STATE).write_text(json.dumps(state, indent=1) + "\n")
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    except OSError as error:
        return f"{target}: could not be written: {error.strerror}"
    return None


def _checksum(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
