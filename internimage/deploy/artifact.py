"""A folder with all that runs a model elsewhere: its file, the operators' library, a manifest, a sample."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.export import ExportedProgram

from internimage._version import __version__
from internimage.deploy.inputs import InputSpec, check_inputs, describe_inputs, device_of
from internimage.deploy.logs import errors_only
from internimage.deploy.manifest import Format, Manifest, Operators, read_manifest
from internimage.deploy.onnx import load_onnx, write_onnx
from internimage.deploy.packages import package
from internimage.deploy.prepared import with_prepared_backbones
from internimage.deploy.processors import PROCESSORS, Processor, needed_capabilities
from internimage.deploy.programs import Range, export, operators_of
from internimage.ops import build, toolchain
from internimage.ops.schema import SCHEMA_VERSION
from internimage.ops.toolchain import BuildError

_SAMPLE = "sample.safetensors"
_LIBRARY = f"libinternimage{build.SUFFIX}"

Call = Callable[..., Sequence[Tensor]]


def save_artifact(
    model: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    folder: str | PathLike[str],
    *,
    format: Format = "aoti",
    batch: Range | None = (1, 64),
    height: Range | None = None,
    width: Range | None = None,
    processor: Processor = "native",
    prepare: bool | None = None,
    outputs: Sequence[str] = ("output",),
    unordered: bool = False,
    tolerance: float = 1e-3,
    task: Mapping[str, Any] | None = None,
) -> Path:
    """Export a model, and write it with all that runs it elsewhere into a folder, which appears when it is complete.

    Args:
        model: a `Deployed`, or any that returns a tuple of tensors; in evaluation mode.
        example: the inputs of one image, a sensible one: they become the sample.
        folder: to write; must not exist yet, or hold an artifact and nothing else, which is replaced.
        format: "aoti", compiled by AOTInductor, runs in Python and in C++; "pt2", a graph of torch.export, runs in
            Python; "onnx" runs in onnxruntime, without torch and the operators' library.
        batch, height, width: see `export`.
        processor: that the code is for: "native", one that has all that this one has; or "avx2" or "baseline". Not for
            ONNX.
        prepare: deploy what `prepare_for_inference` makes of the backbones, where it can: the same, faster; a copy of
            them. None: unless they take an eighth of the machine's memory. Not for ONNX.
        outputs: names of the outputs.
        unordered: see `Manifest`.
        tolerance: see `Manifest`.
        task: see `Manifest`.

    Raises:
        ValueError: what can't be exported, as for `export`; outputs that are not finite; a folder that holds something
            else.
        BuildError: the operators' library can't be built here.
        ImportError: for ONNX, a package that is missing.
    """
    if format == "onnx" and (prepare or processor != "native"):
        raise ValueError(f"save_artifact: ONNX has no prepare and processor, got {prepare} and {processor}; leave them")
    example = (example,) if isinstance(example, Tensor) else example
    with torch.no_grad():
        results = model(*example)
    if len(results) != len(outputs):
        raise ValueError(f"save_artifact: the model has {len(results)} outputs, got {len(outputs)} names: {outputs}")
    for name, result in zip(outputs, results, strict=True):
        if not result.isfinite().all():
            raise ValueError(
                f"save_artifact: the model's output {name} for the example has numbers that are not finite; check its "
                "weights, and that they suit its precision"
            )
    if format != "onnx" and (_small_enough(model) if prepare is None else prepare):
        model = with_prepared_backbones(model)
    program = export(model, example, batch=batch, height=height, width=width)
    with artifact_folder(folder) as new:
        inputs = describe_inputs(program)
        file = _WRITERS[format](program, new, processor, outputs)
        _write_sample(new / _SAMPLE, inputs, example, outputs, results)
        sizes = {path.name: path.stat().st_size for path in sorted(new.iterdir())}
        device = device_of(program)
        names = [] if format == "onnx" else operators_of(program)
        operators = _write_operators(new, device, processor, names) if names else None
        native = format == "aoti" or operators is not None
        manifest = Manifest(
            format=format,
            model=file,
            sizes=sizes,
            operators=operators,
            inputs=inputs,
            outputs=tuple(outputs),
            unordered=unordered,
            sample=_SAMPLE,
            tolerance=tolerance,
            device=device,
            platform=toolchain.platform_name() if native else "",
            capabilities=needed_capabilities(processor) if native else (),
            versions={"internimage": __version__, "torch": torch.__version__},
            task=task or {},
        )
        manifest.write(new)
    return Path(folder)


@contextmanager
def artifact_folder(folder: str | PathLike[str]) -> Iterator[Path]:
    """A folder to write an artifact into, which takes the place of the given one when the block has ended well.

    Raises:
        ValueError: what there is holds something else than an artifact.
    """
    folder = Path(folder)
    if folder.exists():
        _refuse_other_files(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        new, old = Path(temporary) / "new", Path(temporary) / "old"
        new.mkdir()
        yield new
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise


def _refuse_other_files(folder: Path) -> None:
    files = {path.name for path in folder.iterdir()}
    try:
        ours = read_manifest(folder).files
    except ValueError:
        ours = frozenset()
    if others := sorted(files - ours):
        raise ValueError(
            f"{folder}: holds something else than a deployed model ({', '.join(others[:3])}); give another folder"
        )


@dataclass(frozen=True)
class Artifact:
    """A deployed model, as a function of tensors. Make one with `load_artifact`.

    A package that is run outside the sizes it was exported for computes wrong numbers without a word, so every call
    is checked first.
    """

    folder: Path
    manifest: Manifest
    model: Call

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the model.

        Raises:
            ValueError: number, dtype, device, rank or sizes of the inputs are not those of the manifest.
        """
        check_inputs(inputs, self.manifest.inputs, self.manifest.device, str(self.folder))
        with torch.no_grad():
            return tuple(self.model(*(tensor.contiguous() for tensor in inputs)))

    def sample(self) -> tuple[list[Tensor], list[Tensor]]:
        """The inputs of the sample, and what the model gave for them before it was exported.

        Raises:
            ValueError: its file is damaged.
        """
        path = self.folder / self.manifest.sample
        try:
            stored = load_file(path, device=self.manifest.device)
            inputs = [stored[f"input.{spec.name}"] for spec in self.manifest.inputs]
            return inputs, [stored[f"output.{name}"] for name in self.manifest.outputs]
        except (SafetensorError, OSError, KeyError) as error:
            raise ValueError(f"{path}: damaged ({error}); copy it again") from error

    def difference(self) -> float:
        """How far the outputs for the sample are from those that it should give.

        Of floating numbers the largest difference, relative to the largest value; of whole numbers, such as labels, the
        share that differs; infinity where shapes differ or a number is not finite. See also `Manifest.unordered`.
        """
        inputs, expected = self.sample()
        return max(
            _difference(got, wanted, unordered=self.manifest.unordered)
            for got, wanted in zip(self(*inputs), expected, strict=True)
        )


def load_artifact(folder: str | PathLike[str], *, runners: int = 1) -> Artifact:
    """Load a deployed model, and the operators that it calls, from a folder that `save_artifact` wrote.

    Args:
        folder: the artifact.
        runners: calls that a package computes at the same time; more wait.

    Raises:
        ValueError: there is no artifact, or a part of it is missing, truncated or another; or it was made for another
            torch, operating system, processor, device, or version of the operators.
        ImportError: onnxruntime is missing, where the model is an ONNX file.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    _check_machine(folder, manifest)
    for name, size in manifest.sizes.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path}: is missing; copy the folder again")
        if path.stat().st_size != size:
            raise ValueError(f"{path}: truncated: it has {path.stat().st_size} bytes, expected {size}; copy it again")
    if manifest.operators is not None:
        _load_operators(folder, manifest.operators, manifest.device)
    try:
        model = _LOADERS[manifest.format](folder / manifest.model, runners)
    except ImportError:
        raise
    except Exception as error:  # each library has kinds of its own
        raise ValueError(
            f"{folder / manifest.model}: can't be loaded: {str(error).splitlines()[0]}; copy it, or export it, again"
        ) from error
    return Artifact(folder, manifest, model)


def _difference(got: Tensor, wanted: Tensor, *, unordered: bool) -> float:
    if got.shape != wanted.shape or not (got.isfinite().all() and wanted.isfinite().all()):
        return float("inf")
    if not got.numel():
        return 0.0
    if unordered and got.ndim > 1:
        got, wanted = got.sort(1).values, wanted.sort(1).values
    if not wanted.is_floating_point():
        return float((got != wanted).double().mean())
    scale = wanted.double().abs().max().clamp(min=1e-12)
    return float((got.double() - wanted.double()).abs().max() / scale)


def _small_enough(model: nn.Module) -> bool:
    """Whether memory holds a prepared copy, and the two that AOTInductor makes of that one."""
    if not hasattr(os, "sysconf"):
        return True
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return sum(x.nbytes for x in model.parameters()) < memory / 8


def _check_machine(folder: Path, manifest: Manifest) -> None:
    made = manifest.versions["torch"]
    if manifest.format == "aoti" and _minor(made) != _minor(torch.__version__):
        raise ValueError(
            f"{folder}: was compiled by torch {made}, this is torch {torch.__version__}; export the model again with "
            f"this one, or install torch=={_minor(made)}.*"
        )
    if manifest.platform not in ("", toolchain.platform_name()):
        raise ValueError(
            f"{folder}: was compiled for {manifest.platform}, this is {toolchain.platform_name()}; export it here"
        )
    capabilities = torch.cpu.get_capabilities()
    missing = [name for name in manifest.capabilities if not capabilities.get(name, False)]
    if missing:
        raise ValueError(
            f"{folder}: was compiled for a processor with {', '.join(missing)}, which this one has not got; export it "
            "here, or with processor avx2 or baseline"
        )
    if manifest.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{folder}: was made for cuda, which is not available here; export the model on the CPU")


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _write_operators(folder: Path, device: str, processor: Processor, names: Sequence[str]) -> Operators:
    library = build.build_library(
        cuda=device == "cuda", standalone=True, instruction_set=PROCESSORS[processor].instruction_set
    )
    shutil.copyfile(library, folder / _LIBRARY)
    return Operators(_LIBRARY, _sha256(folder / _LIBRARY), SCHEMA_VERSION, tuple(names))


def _load_operators(folder: Path, operators: Operators, device: str) -> None:
    path = folder / operators.file
    if not path.is_file():
        raise ValueError(f"{path}: the operators' library is missing; copy the folder again")
    if _sha256(path) != operators.sha256:
        raise ValueError(f"{path}: is not the operators' library that the model was exported with; copy it again")
    if operators.version != SCHEMA_VERSION:
        raise ValueError(
            f"{folder}: calls version {operators.version} of the operators, this library has version {SCHEMA_VERSION}; "
            "export the model again"
        )
    try:
        build.adopt_library(path, device)
    except BuildError as error:
        raise ValueError(
            f"{path}: this system can't load it ({str(error).splitlines()[0]}); export the model here"
        ) from error


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_sample(
    path: Path, specs: Sequence[InputSpec], inputs: Sequence[Tensor], names: Sequence[str], outputs: Sequence[Tensor]
) -> None:
    tensors = {f"input.{spec.name}": tensor for spec, tensor in zip(specs, inputs, strict=True)}
    tensors |= {f"output.{name}": tensor for name, tensor in zip(names, outputs, strict=True)}
    # not save_file, whose files only their owner may read
    path.write_bytes(save({name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}))


def _write_program(program: ExportedProgram, folder: Path, processor: Processor, outputs: Sequence[str]) -> str:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # torch 2.13 warns of its own pytree code
        torch.export.save(program, folder / "model.pt2")
    return "model.pt2"


def _write_package(program: ExportedProgram, folder: Path, processor: Processor, outputs: Sequence[str]) -> str:
    return package(program, folder / "model.pt2", options=PROCESSORS[processor].compiler_options).name


def _load_program(path: Path, runners: int) -> Call:
    return torch.export.load(path).module()


def _load_package(path: Path, runners: int) -> Call:
    from torch._inductor.package.package import load_package

    # It warns of code for a lesser processor than this one, which runs here: `_check_machine` has looked.
    with errors_only("torch.export.pt2_archive._package"):
        return load_package(str(path), num_runners=runners)


def _write_onnx(program: ExportedProgram, folder: Path, processor: Processor, outputs: Sequence[str]) -> str:
    write_onnx(program, folder / "model.onnx", outputs)
    return "model.onnx"


def _load_onnx(path: Path, runners: int) -> Call:
    return load_onnx(path)


_WRITERS: dict[Format, Callable[[ExportedProgram, Path, Processor, Sequence[str]], str]] = {
    "pt2": _write_program,
    "aoti": _write_package,
    "onnx": _write_onnx,
}
_LOADERS: dict[Format, Callable[[Path, int], Call]] = {
    "pt2": _load_program,
    "aoti": _load_package,
    "onnx": _load_onnx,
}
