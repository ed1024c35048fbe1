"""From a model to a file that runs without its Python source: torch.export, AOTInductor, and loading it back.

    program = export(model.eval(), torch.rand(1, 3, 224, 224), batch=(1, 64))
    package(program, "model.pt2")
    logits = load_package("model.pt2")(images)

The operator DCNv3 is not inside the file: it is called by name, and `load_package` provides it.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from internimage.ops.backend import get_backend
from internimage.ops.build import native_available
from internimage.ops.schema import SCHEMA_VERSION, SCHEMAS

Range = tuple[int, int]  # least and greatest size, both included

# For `torch.compile(model, dynamic=True, options=FREE_SIZE_OPTIONS)` in inference, and for packages of free height and
# width: torch 2.13 cannot compare the strides of a channels-last map of free size. Later releases need nothing.
FREE_SIZE_OPTIONS: dict[str, Any] = {} if torch.__version__ >= "2.14" else {"layout_optimization": False}

_METADATA_KEY = "internimage"
_MODEL_NAME = "model"  # what aoti_compile_and_package calls the only model of a package
_OPERATORS = frozenset(f"internimage.{name}.default" for name in SCHEMAS)


@dataclass(frozen=True)
class Dimension:
    """A size that may differ between calls. Dimensions of one name are equal within a call."""

    name: str
    min: int
    max: int


@dataclass(frozen=True)
class InputSpec:
    """What a package takes for one of its inputs: sizes that are fixed, or free within a range."""

    dtype: str  # "float32"
    shape: tuple[int | Dimension, ...]

    def __str__(self) -> str:
        sizes = (str(d) if isinstance(d, int) else f"{d.min} to {d.max}" for d in self.shape)
        return f"{self.dtype} [{', '.join(sizes)}]"


def export(
    model: nn.Module,
    example: Tensor,
    *,
    batch: Range | None = (1, 64),
    height: Range | None = None,
    width: Range | None = None,
) -> ExportedProgram:
    """Trace an image model into a graph of operators, with sizes left free within ranges.

    Where the native kernels are available the graph calls the operator; otherwise it holds its PyTorch definition.

    Args:
        model: image [N, C, H, W] -> anything; in evaluation mode.
        example: an image batch of any values, on the model's device.
        batch: least and greatest N; None fixes it to the example's.
        height: the same for H.
        width: the same for W.

    Raises:
        ValueError: the model is in training mode, the example has not four dimensions, or a range is empty or leaves
            the example's height or width out.
    """
    if model.training:
        raise ValueError("export: the model is in training mode, expected evaluation mode; call model.eval() first")
    if example.ndim != 4:
        raise ValueError(f"export: expected an example [N, C, H, W], got shape {list(example.shape)}")
    dimensions: dict[int, Dim] = {}
    for axis, name, sizes in ((0, "batch", batch), (2, "height", height), (3, "width", width)):
        if sizes is None or sizes[0] == sizes[1] == example.shape[axis]:
            continue
        if not 1 <= sizes[0] < sizes[1] or (axis and not sizes[0] <= example.shape[axis] <= sizes[1]):
            raise ValueError(
                f"export: {name} must be a range (least, greatest) of sizes from 1 that holds the example's "
                f"{example.shape[axis]}, got {sizes}"
            )
        dimensions[axis] = Dim(name, min=sizes[0], max=sizes[1])
    if 0 in dimensions:  # a size of 1 would be taken for a constant
        example = example[:1].expand(max(2, dimensions[0].min), -1, -1, -1).contiguous()
    with torch.no_grad():
        return torch.export.export(model, (example,), dynamic_shapes=(dimensions,))


def package(program: ExportedProgram, path: str | PathLike[str]) -> Path:
    """Compile an exported program for its device into one file, with what `load_package` must know to run it safely.

    Code for the CPU uses this machine's instruction set; environment variable TORCHINDUCTOR_CPP_MARCH sets another.

    Args:
        program: from `export`.
        path: of the file, which ends in .pt2; its folder is created.

    Raises:
        ValueError: another suffix, or sizes that are neither fixed nor free (for one, "a multiple of 32").
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise ValueError(f"package: the file's name must end in .pt2, got {path}")
    inputs = _describe_inputs(program)
    operators = sorted({str(node.target) for node in program.graph.nodes} & _OPERATORS)
    metadata = {
        "inputs": [asdict(spec) for spec in inputs],
        "device": str(_example(program, 0).device.type),
        "operators": operators,
        "operator_version": SCHEMA_VERSION,
        "torch": torch.__version__,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    options = FREE_SIZE_OPTIONS if any(isinstance(d, Dimension) for spec in inputs for d in spec.shape[1:]) else {}
    partial = path.with_name(f"{path.stem}.partial.pt2")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # torch 2.13 warns of its own pytree code
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(partial),
            inductor_configs={"aot_inductor.metadata": {_METADATA_KEY: json.dumps(metadata)}} | options,
        )
    return partial.replace(path)


class Package:
    """A compiled model, as a function of tensors. Make one with `load_package`.

    A package that is run outside the sizes it was exported for computes wrong numbers without a word, so every call
    is checked first.
    """

    def __init__(self, path: Path, inputs: tuple[InputSpec, ...], device: str) -> None:
        self.path = path
        self.inputs = inputs
        self.device = device
        self._model = torch._inductor.aoti_load_package(str(path))

    def __call__(self, *inputs: Tensor) -> Any:
        """Run the model.

        Raises:
            ValueError: number, dtype, device, rank or sizes of the inputs are not those of `self.inputs`.
        """
        self._check(inputs)
        with torch.no_grad():
            return self._model(*(tensor.contiguous() for tensor in inputs))

    def _check(self, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs) != len(self.inputs):
            raise ValueError(f"{self.path}: expected {len(self.inputs)} inputs, got {len(inputs)}")
        free: dict[str, int] = {}
        for i, (tensor, spec) in enumerate(zip(inputs, self.inputs, strict=True)):
            dtype = str(tensor.dtype).removeprefix("torch.")
            expected = f"{self.path}: input {i} must be {spec} on {self.device}"
            if dtype != spec.dtype:
                raise ValueError(f"{expected}, got dtype {dtype}; convert it with .to(torch.{spec.dtype})")
            if tensor.device.type != self.device:
                raise ValueError(f"{expected}, got a tensor on {tensor.device}; move it with .to({self.device!r})")
            if tensor.ndim != len(spec.shape) or not all(map(_fits, tensor.shape, spec.shape)):
                raise ValueError(f"{expected}, got {list(tensor.shape)}; export the model again for other sizes")
            for size, dimension in zip(tensor.shape, spec.shape, strict=True):
                if isinstance(dimension, Dimension) and free.setdefault(dimension.name, size) != size:
                    raise ValueError(
                        f"{expected}, got {list(tensor.shape)}: its {size} must equal {free[dimension.name]}, the same "
                        "dimension elsewhere"
                    )


def load_package(path: str | PathLike[str]) -> Package:
    """Load a file that `package` wrote, and the operators that it calls.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no package, is truncated, was not written by `package`, or was written for another
            version of the operators or for a device that is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; internimage.deploy.package writes one")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: not a package or truncated; copy it again, or write it again with deploy.package")
    metadata = _read_metadata(path)
    if metadata["device"] == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{path}: was compiled for cuda, which is not available here; package the model on the CPU")
    if metadata["operators"]:
        if metadata["operator_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"{path}: calls version {metadata['operator_version']} of the operators, this library has version "
                f"{SCHEMA_VERSION}; export the model again"
            )
        native_available(metadata["device"], get_backend())
    inputs = tuple(
        InputSpec(spec["dtype"], tuple(d if isinstance(d, int) else Dimension(**d) for d in spec["shape"]))
        for spec in metadata["inputs"]
    )
    try:
        return Package(path, inputs, metadata["device"])
    except RuntimeError as error:
        raise ValueError(
            f"{path}: can't be loaded by torch {torch.__version__} (it was compiled by {metadata['torch']}): "
            f"{str(error).splitlines()[0]}; package the model again"
        ) from error


def _read_metadata(path: Path) -> dict[str, Any]:
    loader: Any = torch._C._aoti.AOTIModelPackageLoader
    try:
        stored = loader.load_metadata_from_package(str(path), _MODEL_NAME)
        metadata: dict[str, Any] = json.loads(stored[_METADATA_KEY])
    except (RuntimeError, KeyError) as error:
        raise ValueError(
            f"{path}: holds no input ranges, so it can't be run safely; write it with internimage.deploy.package"
        ) from error
    return metadata


def _describe_inputs(program: ExportedProgram) -> tuple[InputSpec, ...]:
    count = sum(spec.kind is InputKind.USER_INPUT for spec in program.graph_signature.input_specs)
    specs = []
    for i in range(count):
        value = _example(program, i)
        shape = tuple(_describe_size(size, program) for size in value.shape)
        specs.append(InputSpec(str(value.dtype).removeprefix("torch."), shape))
    return tuple(specs)


def _example(program: ExportedProgram, index: int) -> Tensor:
    """The fake tensor that the program was traced with for an input."""
    names = program.graph_signature.user_inputs
    value = next(node.meta["val"] for node in program.graph.nodes if node.name == names[index])
    if not isinstance(value, Tensor):
        raise ValueError(f"package: input {index} of the program is {type(value).__name__}, expected a tensor")
    return value


def _describe_size(size: int | torch.SymInt, program: ExportedProgram) -> int | Dimension:
    if isinstance(size, int):
        return size
    symbol = size.node.expr
    limits = program.range_constraints.get(symbol)
    if limits is None or not symbol.is_symbol:
        raise ValueError(f"package: a size of {symbol} can't be checked at run time; export with plain ranges")
    return Dimension(str(symbol), int(limits.lower), int(limits.upper))


def _fits(size: int, dimension: int | Dimension) -> bool:
    if isinstance(dimension, int):
        return size == dimension
    return dimension.min <= size <= dimension.max
