"""Deployment by torch.compile: quick to compile by blocks, and with the compiler's work taken along."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import count
from os import PathLike
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import nn

from internimage.backbone import Block, Stage
from internimage.deploy.processors import needed_capabilities
from internimage.inference import PreparedBlock
from internimage.ops import toolchain


def compile_blocks(model: nn.Module, **options: Any) -> int:
    """Compile each block of the backbone in place instead of the whole model: the blocks of a stage share one graph.

    So InternImage-T compiles four graphs instead of one with thirty blocks. What lies between the blocks runs eagerly.
    For a second size of image the graphs are made once more, then for any size.

    Args:
        model: with an `InternImage` in it, also one of `prepare_for_inference`.
        **options: of `torch.compile`.

    Returns:
        How many blocks there are.

    Raises:
        ValueError: there are none.
    """
    stages = [
        [module for module in stage.modules() if isinstance(module, Block | PreparedBlock)]
        for stage in model.modules()
        if isinstance(stage, Stage)
    ]
    if not stages:
        raise ValueError(
            "compile_blocks: the model has no block of InternImage; compile it whole: torch.compile(model)"
        )
    for blocks in stages:
        compiled = torch.compile(_call_of_its_own(), fullgraph=True, **options)
        for block in blocks:
            block._compiled_call_impl = partial(compiled, block)  # as nn.Module.compile does
    return sum(map(len, stages))


def _call(block: Any, *arguments: Any) -> Any:
    return block._call_impl(*arguments)


def _call_of_its_own() -> Callable[..., Any]:
    """`_call` under another name.

    By its name and place the compiler tells functions apart, remembers the sizes that it met, and limits how many
    graphs there are: with one for all stages it would take the second stage's sizes for those of a second image.
    """
    return FunctionType(_call.__code__.replace(co_name=f"_call_{next(_numbers)}"), globals())


_numbers = count()


def save_compiled(path: str | PathLike[str]) -> Path:
    """Write what the compiler has made in this process so far, for `load_compiled` on other machines of its kind.

    Raises:
        ValueError: it has made nothing.
    """
    saved = torch.compiler.save_cache_artifacts()
    if saved is None:
        raise ValueError("save_compiled: nothing has been compiled yet; run the compiled model on an example first")
    path = Path(path)
    path.write_bytes(json.dumps(_machine()).encode() + b"\n" + saved[0])
    return path


def load_compiled(path: str | PathLike[str]) -> None:
    """Take over what `save_compiled` wrote: what the same model would compile to comes from there.

    The file holds programs: load none that you don't trust.

    Raises:
        ValueError: it was made by another torch or for another processor, or is damaged.
    """
    first, _, content = Path(path).read_bytes().partition(b"\n")
    here = _machine()
    try:
        made = json.loads(first)
        if not isinstance(made, dict) or made.keys() != here.keys():
            raise ValueError(made)
    except ValueError as error:
        raise ValueError(f"{path}: not a file of save_compiled, or damaged; copy it again") from error
    if made != here:
        differing = ", ".join(f"{key} {made[key]} instead of {here[key]}" for key in here if made[key] != here[key])
        raise ValueError(f"{path}: was made for {differing}; save it again on such a machine")
    if torch.compiler.load_cache_artifacts(content) is None:
        raise ValueError(f"{path}: damaged; copy it again")


def _machine() -> dict[str, str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return {
        "torch": torch.__version__,
        "platform": toolchain.platform_name(),
        "processor": " ".join(needed_capabilities("native")),
        "device": device,
    }
