"""`internimage run`: what a deployed model says of pictures, with nothing but its folder."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from internimage.deploy import Artifact, load_artifact
from internimage.tasks.artifact_pictures import picture_inputs
from internimage.tasks.artifact_results import Reading, read_outputs
from internimage.tasks.images import Image, write_image
from internimage.tasks.picture_files import find_images, prediction_paths, read_images

EXAMPLES = """examples:
  internimage run deployed                            check it: compare its outputs for its sample
  internimage run deployed photo.jpg
  internimage run deployed photos/ --json > results.json
  internimage run deployed photos/ --output labels    and what each pixel shows, as PNG
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="folder that `internimage export` wrote")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="picture files, folders of them, or wildcards")
    parser.add_argument("--threshold", type=float, default=0.3, help="least score of objects (0.3)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="write a grey PNG of each picture: a segmentor's classes, or the numbers, from 1, of a detector's objects",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Run the model; files that can't be read are reported, and make the exit status 1."""
    if not 0 <= arguments.threshold <= 1:
        raise ValueError(f"--threshold must be from 0 to 1, got {arguments.threshold}")
    artifact = load_artifact(arguments.artifact)
    if not arguments.images:
        return _check(artifact)
    paths = find_images(arguments.images)
    if "view" not in artifact.manifest.task:
        raise ValueError(
            f"{arguments.artifact}: doesn't say how a picture becomes its input; `internimage export` writes artifacts "
            "that do"
        )
    targets = prediction_paths(paths, arguments.output) if arguments.output else {}
    contents = []
    for path, image in read_images(paths):
        reading = _read(artifact, image, arguments.threshold)
        contents.append({"file": path, **reading.content})
        if not arguments.json:
            print("\n".join([path, *reading.rows]), flush=True)
        if path in targets and reading.labels is not None:
            write_image(targets[path], reading.labels)
    if arguments.json:
        print(json.dumps(contents))
    failed = len(paths) - len(contents)
    if failed:
        print(f"{failed} of {len(paths)} files could not be read", file=sys.stderr)
    return 1 if failed else 0


def _read(artifact: Artifact, image: Image, threshold: float) -> Reading:
    manifest = artifact.manifest
    inputs = picture_inputs(image, manifest.task)
    outputs = artifact(*(tensor.to(manifest.device) for tensor in inputs))
    by_name = dict(zip(manifest.outputs, (output.cpu() for output in outputs), strict=True))
    return read_outputs(by_name, inputs, manifest.task, image.shape[:2], threshold=threshold)


def _check(artifact: Artifact) -> int:
    difference = artifact.difference()
    tolerance = artifact.manifest.tolerance
    print(f"sample: differs from the model by {difference:.1e} of its largest output, at most {tolerance:.1e} is fine")
    return int(difference > tolerance)
