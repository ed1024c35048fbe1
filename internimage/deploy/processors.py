"""The processors that compiled code can be made for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch

from internimage.ops import toolchain

Processor = Literal["native", "avx2", "baseline"]


class Target(NamedTuple):
    """How to compile for a processor.

    Attributes:
        instruction_set: of the operators' library, see `internimage.ops.build`; None: this processor's best.
        compiler_options: of Inductor.
    """

    instruction_set: str | None
    compiler_options: Mapping[str, Any]


PROCESSORS: dict[Processor, Target] = {
    "native": Target(None, {}),
    "avx2": Target("avx2", {"cpp.march": "x86-64-v3", "cpp.simdlen": 256}),
    "baseline": Target("baseline", {"cpp.march": "", "cpp.simdlen": 1}),  # no vector of one bit: plain loops
}


def needed_capabilities(processor: Processor) -> tuple[str, ...]:
    """What code for it needs, by the names of `torch.cpu.get_capabilities()`."""
    if processor == "native":
        return tuple(sorted(name for name, value in torch.cpu.get_capabilities().items() if value is True))
    return toolchain.INSTRUCTION_SETS[processor][0] if processor in toolchain.INSTRUCTION_SETS else ()
