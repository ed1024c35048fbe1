"""AOTInductor packages: a compiled program in one file, and loading it back."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from internimage.deploy.inputs import Dimension, InputSpec, check_inputs, describe_inputs, device_of
from internimage.deploy.programs import operators_of
from internimage.ops.backend import get_backend
from internimage.ops.build import native_available
from internimage.ops.schema import SCHEMA_VERSION

# For `torch.compile(model, dynamic=True, options=FREE_SIZE_OPTIONS)` in inference, and for packages of free height and
# width: torch 2.13 cannot compare the strides of a channels-last map of free size. Later releases need nothing.
FREE_SIZE_OPTIONS: dict[str, Any] = {} if torch.__version__ >= "2.14" else {"layout_optimization": False}

_METADATA_KEY = "internimage"
_MODEL_NAME = "model"  # what aoti_compile_and_package calls the only model of a package


def package(program: ExportedProgram, path: str | PathLike[str], *, options: Mapping[str, Any] | None = None) -> Path:
    """Compile an exported program for its device into one file, with what `load_package` must know to run it safely.

    Code for the CPU uses this machine's instruction set; environment variable TORCHINDUCTOR_CPP_MARCH sets another.

    Args:
        program: from `export`.
        path: of the file, which ends in .pt2; its folder is created.
        options: of the compiler, by their names in `torch._inductor.config`.

    Raises:
        ValueError: another suffix, or sizes that are neither fixed nor free (for one, "a multiple of 32").
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise ValueError(f"package: the file's name must end in .pt2, got {path}")
    inputs = describe_inputs(program)
    metadata = {
        "inputs": [asdict(spec) for spec in inputs],
        "device": device_of(program),
        "operators": operators_of(program),
        "operator_version": SCHEMA_VERSION,
        "torch": torch.__version__,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    free = any(isinstance(d, Dimension) for spec in inputs for d in spec.shape[1:])
    quantised = any("quantized_decomposed" in str(node.target) for node in program.graph.nodes)
    partial = path.with_name(f"{path.stem}.partial.pt2")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # torch 2.13 warns of its own pytree code
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(partial),
            inductor_configs={
                "aot_inductor.metadata": {_METADATA_KEY: json.dumps(metadata)},
                **(FREE_SIZE_OPTIONS if free else {}),
                **({"freezing": True} if quantised else {}),  # packs the weights for products of int8
                **(options or {}),
            },
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
        check_inputs(inputs, self.inputs, self.device, str(self.path))
        with torch.no_grad():
            return self._model(*(tensor.contiguous() for tensor in inputs))


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
    inputs = tuple(map(InputSpec.from_json, metadata["inputs"]))
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
