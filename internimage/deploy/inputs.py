"""What a deployed model takes: sizes that are fixed, or free within a range, and the check of each call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

_AXES = ("batch", "channels", "height", "width")  # of the image, which comes first


@dataclass(frozen=True)
class Dimension:
    """A size that may differ between calls. Dimensions of one name are equal within a call."""

    name: str
    min: int
    max: int


@dataclass(frozen=True)
class InputSpec:
    """One of the inputs: sizes that are fixed, or free within a range."""

    dtype: str  # "float32"
    shape: tuple[int | Dimension, ...]
    name: str = ""

    def __str__(self) -> str:
        sizes = (str(d) if isinstance(d, int) else f"{d.min} to {d.max}" for d in self.shape)
        return f"{self.dtype} [{', '.join(sizes)}]"

    @staticmethod
    def from_json(content: dict[str, Any]) -> InputSpec:
        """What `dataclasses.asdict` made of one, back."""
        shape = tuple(d if isinstance(d, int) else Dimension(**d) for d in content["shape"])
        return InputSpec(content["dtype"], shape, content["name"])


def describe_inputs(program: ExportedProgram) -> tuple[InputSpec, ...]:
    """The inputs of an exported program.

    Raises:
        ValueError: sizes that are neither fixed nor free (for one, "a multiple of 32").
    """
    count = sum(spec.kind is InputKind.USER_INPUT for spec in program.graph_signature.input_specs)
    names: dict[str, str] = {}  # by symbol
    specs = []
    for i in range(count):
        name, value = _placeholder(program, i)
        shape = tuple(_describe_size(size, axis, program, names) for axis, size in enumerate(value.shape))
        specs.append(InputSpec(str(value.dtype).removeprefix("torch."), shape, name))
    return tuple(specs)


def device_of(program: ExportedProgram) -> str:
    """The type of the device that an exported program runs on, such as "cpu"."""
    return str(_placeholder(program, 0)[1].device.type)


def check_inputs(inputs: Sequence[Tensor], specs: Sequence[InputSpec], device: str, where: str) -> None:
    """See that a call is one that the model was exported for.

    Args:
        inputs: of the call.
        specs: of the model.
        device: type of the device that the model runs on.
        where: what errors call the model.

    Raises:
        ValueError: number, dtype, device, rank or sizes of the inputs are others.
    """
    if len(inputs) != len(specs):
        raise ValueError(f"{where}: expected {len(specs)} inputs, got {len(inputs)}")
    free: dict[str, int] = {}
    for i, (tensor, spec) in enumerate(zip(inputs, specs, strict=True)):
        dtype = str(tensor.dtype).removeprefix("torch.")
        expected = f"{where}: input {i} must be {spec} on {device}"
        if dtype != spec.dtype:
            raise ValueError(f"{expected}, got dtype {dtype}; convert it with .to(torch.{spec.dtype})")
        if tensor.device.type != device:
            raise ValueError(f"{expected}, got a tensor on {tensor.device}; move it with .to({device!r})")
        if tensor.ndim != len(spec.shape) or not all(map(_fits, tensor.shape, spec.shape)):
            raise ValueError(f"{expected}, got {list(tensor.shape)}; export the model again for other sizes")
        for size, dimension in zip(tensor.shape, spec.shape, strict=True):
            if isinstance(dimension, Dimension) and free.setdefault(dimension.name, size) != size:
                raise ValueError(
                    f"{expected}, got {list(tensor.shape)}: its {size} must equal {free[dimension.name]}, the same "
                    "dimension elsewhere"
                )


def _placeholder(program: ExportedProgram, index: int) -> tuple[str, Tensor]:
    """The name of an input, and the fake tensor that the program was traced with for it."""
    name = program.graph_signature.user_inputs[index]
    value = next(node.meta["val"] for node in program.graph.nodes if node.name == name)
    if not isinstance(value, Tensor):
        raise ValueError(f"deploy: input {index} of the program is {type(value).__name__}, expected a tensor")
    return str(name), value


def _describe_size(
    size: int | torch.SymInt, axis: int, program: ExportedProgram, names: dict[str, str]
) -> int | Dimension:
    if isinstance(size, int):
        return size
    symbol = size.node.expr
    limits = program.range_constraints.get(symbol)
    if limits is None or not symbol.is_symbol:
        raise ValueError(f"deploy: a size of {symbol} can't be checked at run time; export with plain ranges")
    name = names.setdefault(str(symbol), _AXES[axis] if axis < len(_AXES) else str(symbol))
    return Dimension(name, int(limits.lower), int(limits.upper))


def _fits(size: int, dimension: int | Dimension) -> bool:
    if isinstance(dimension, int):
        return size == dimension
    return dimension.min <= size <= dimension.max
