"""`internimage export`: a folder that runs a model elsewhere."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from internimage.deploy import PIXELS, Format, Precision, Processor, artifact_folder, load_artifact
from internimage.ops.toolchain import BuildError
from internimage.tasks.exportable import load, save_artifact
from internimage.tasks.images import Image, read_image
from internimage.tasks.picture_files import find_images, read_images

EXAMPLES = """examples:
  internimage export internimage_t --output deployed                     released weights; compiled, for C++ and Python
  internimage export --checkpoint runs/photos --output deployed          what `internimage train` made
  internimage export internimage_t --checkpoint t.pth --height 64:512 --width 64:512 --output deployed
  internimage export internimage_t --features --height 64:1024 --width 64:1024 --output deployed
  internimage export --checkpoint runs/photos --int8 photos/val --output deployed
  internimage export upernet_internimage_t_512_160k_ade20k --format onnx --output deployed
  internimage export --checkpoint runs/cells --processor avx2 --output deployed --predict="--test-scale 800 600"
  internimage run deployed photo.jpg

The folder holds the model, the operators' library, manifest.json, and a sample input with its output, by which
`internimage run DIR` checks it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="a classifier, segmentor or detector (what --checkpoint says)"
    )
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="a run's folder, or weights; without it the released ones are downloaded"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the folder to write")
    parser.add_argument(
        "--format",
        choices=get_args(Format),
        default="aoti",
        help="aoti: compiled, for C++ and Python; pt2: a graph for Python; onnx: for onnxruntime and others (aoti)",
    )
    parser.add_argument("--features", action="store_true", help="the maps of a classifier's stages, not its classes")
    for name, default in (
        ("batch", "1:64"),
        ("height", "64:1536, of a detector 96:1536, or a classifier's side"),
        ("width", "as height"),
    ):
        parser.add_argument(
            f"--{name}", type=_sizes, metavar="N[:M]", help=f"that it takes, or from least to greatest ({default})"
        )
    parser.add_argument(
        "--pixels",
        choices=list(PIXELS),
        default="uint8",
        help="form of the image: RGB as bytes or floats, normalised inside; or normalised by the caller (uint8)",
    )
    parser.add_argument("--precision", choices=get_args(Precision), default="float32", help="inside (float32)")
    parser.add_argument(
        "--int8",
        nargs="+",
        metavar="IMAGE",
        help="multiply int8, on x86: pictures like those to come, a hundred, or folders of them, for the scales",
    )
    parser.add_argument(
        "--processor",
        choices=get_args(Processor),
        default="native",
        help="that the code is for: as capable as this one, or with AVX2, or any (native)",
    )
    parser.add_argument(
        "--prepare",
        action=argparse.BooleanOptionalAction,
        help="fuse the backbone's layers, in float32 on a CPU (unless they take an eighth of the memory)",
    )
    parser.add_argument("--sample", type=Path, metavar="IMAGE", help="picture to make the sample of (a drawn one)")
    parser.add_argument(
        "--predict",
        type=shlex.split,
        default=[],
        metavar='="OPTIONS"',
        help="options of `internimage predict` that say how the model looks at a picture",
    )


def run(arguments: argparse.Namespace) -> int:
    """Export, load it back, and compare its outputs for the sample; the folder appears when they are right."""
    with artifact_folder(arguments.output) as new:
        exportable = load(arguments.model, arguments.checkpoint, arguments.predict, maps=arguments.features)
        try:
            save_artifact(
                exportable,
                new,
                picture=None if arguments.sample is None else read_image(arguments.sample),
                format=arguments.format,
                batch=arguments.batch or (1, 64),
                height=arguments.height,
                width=arguments.width or arguments.height,
                pixels=arguments.pixels,
                precision=arguments.precision,
                calibration=_all_images(arguments.int8) if arguments.int8 else (),
                processor=arguments.processor,
                prepare=arguments.prepare,
            )
        except BuildError as error:
            raise OSError(str(error)) from error
        del exportable  # with its weights
        artifact = load_artifact(new)
        difference, tolerance = artifact.difference(), artifact.manifest.tolerance
        if difference > tolerance:
            raise ValueError(
                f"what was exported differs from the model by {difference:.1e} of its largest output, more than "
                f"{tolerance:.0e}, so {arguments.output} was not written; try another --format or --precision"
            )
        megabytes = sum(path.stat().st_size for path in new.iterdir()) / 1e6
    inputs = ", ".join(f"{spec.name} {spec}" for spec in artifact.manifest.inputs)
    print(
        f"{arguments.output}: {megabytes:.1f} MB, {inputs}; differs from the model by {difference:.1e} of its largest "
        "output"
    )
    return 0


def _all_images(places: Sequence[str]) -> list[Image]:
    paths = find_images(places)
    images = [image for _, image in read_images(paths)]
    if len(images) < len(paths):
        raise ValueError(f"--int8: {len(paths) - len(images)} of {len(paths)} files could not be read; leave them out")
    return images


def _sizes(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2] or match[1]):
        raise argparse.ArgumentTypeError(f"expected a size such as 224, or a range such as 64:1536, got {text!r}")
    return int(match[1]), int(match[2] or match[1])
