"""What stands beside a deployed model: all that a program must know to run it safely, as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from internimage.deploy.inputs import InputSpec

Format = Literal["pt2", "aoti", "onnx"]  # an exported program, an AOTInductor package, an ONNX file

FILE = "manifest.json"
LAYOUT = 1  # of the folder and of this file; raise it when programs that read the old one would go wrong


@dataclass(frozen=True)
class Operators:
    """The library of operators that the model calls.

    Attributes:
        file: its name in the folder.
        sha256: of the file.
        version: of the operators' schemas.
        names: of those that the model calls.
    """

    file: str
    sha256: str
    version: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """What a folder with a deployed model says of itself.

    Attributes:
        format: of the model's file.
        model: the model's file.
        sizes: bytes of the sample and of each file that the model consists of, by name, to tell a truncated one.
        operators: None where the model calls none.
        inputs: in the order of a call.
        outputs: names, in the order of the results.
        unordered: whether what stands along the second axis of outputs, such as detections, may change places where
            rounding differs; then each output is compared sorted along it.
        sample: a file with an input of batch 1 and the outputs that the model gave for it before it was exported, as
            "input.NAME" and "output.NAME".
        tolerance: greatest difference from these outputs to expect, see `Artifact.difference`.
        device: type of the device that it runs on.
        platform: operating system and processor, such as "linux-x86_64"; "" for any.
        capabilities: of the processor that the code needs, by their names in `torch.cpu.get_capabilities()`.
        versions: of what made it, by name; "torch" must be the one that runs it, up to the patch number.
        task: what the inputs are made from and what the outputs mean; see `internimage.tasks.exportable`.
    """

    format: Format
    model: str
    sizes: Mapping[str, int]
    operators: Operators | None
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    sample: str
    tolerance: float
    device: str
    platform: str
    capabilities: tuple[str, ...]
    versions: Mapping[str, str]
    unordered: bool = False
    task: Mapping[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> frozenset[str]:
        """Names of all that the folder holds."""
        return frozenset((FILE, *self.sizes, *((self.operators.file,) if self.operators else ())))

    def write(self, folder: Path) -> None:
        """Write `FILE` into a folder."""
        content = {"layout": LAYOUT, **dataclasses.asdict(self)}
        (folder / FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """What a folder says of itself.

    Raises:
        ValueError: it holds no manifest, or one that is damaged or of another layout.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder}: not a deployed model: it has no {FILE}; `internimage export` makes one") from None
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); copy it again, or export the model again") from error
    layout = content.pop("layout", None) if isinstance(content, dict) else None
    if layout != LAYOUT:
        raise ValueError(
            f"{path}: has layout {layout}, expected {LAYOUT}; export the model again with this internimage"
        )
    try:
        operators = content["operators"] and Operators(**content["operators"] | {"names": ()})
        if operators:
            operators = dataclasses.replace(operators, names=tuple(content["operators"]["names"]))
        sequences = {key: tuple(content[key]) for key in ("outputs", "capabilities")}
        inputs = tuple(map(InputSpec.from_json, content["inputs"]))
        manifest = Manifest(**content | sequences | {"operators": operators, "inputs": inputs})
        _ = manifest.versions["torch"], manifest.sizes[manifest.model], manifest.sizes[manifest.sample]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: damaged ({error!r}); copy it again, or export the model again") from error
    if manifest.format not in get_args(Format):
        raise ValueError(f"{path}: format {manifest.format!r} is unknown, expected {', '.join(get_args(Format))}")
    return manifest
