"""`internimage predict segmentation`: the class of each pixel, as index PNGs and drawn over the pictures."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from internimage.tasks.devices import add_device_argument, choose_device
from internimage.tasks.images import write_image
from internimage.tasks.picture_files import find_images, prediction_paths, read_images
from internimage.tasks.segmentation.label_files import write_labels
from internimage.tasks.segmentation.pictures import class_counts, prediction_picture
from internimage.tasks.segmentation.trained import Trained, add_model_arguments, load_from_arguments

EXAMPLES = """examples:
  internimage predict segmentation street.jpg                       released weights, downloaded on first use
  internimage predict segmentation photos/ --checkpoint runs/streets --output segmented
  internimage predict segmentation photos/ --model upernet_internimage_b_512_160k_ade20k --scales 0.75 1 1.25 --flip
  internimage predict segmentation photos/ --checkpoint runs/streets --json > shares.json

Of photo.jpg, the output folder gets photo.png (each pixel holds the number of its class, and viewers show its colour)
and photo.overlay.png (to look at).
"""

_PROGRESS_FROM = 20  # pictures
_NAMED = 5  # classes in a line of text


@dataclass(frozen=True)
class Prediction:
    """What a picture shows, the class with most pixels first."""

    file: str
    labels: list[int]
    names: list[str]
    shares: list[float]  # of the pixels, in [0, 1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="picture files, folders of them, or wildcards")
    add_model_arguments(parser)
    parser.add_argument(
        "--output", type=Path, metavar="DIR", default=Path("segmented"), help="where to write PNGs (segmented)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    add_device_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Label the pictures' pixels; files that can't be read are reported, and make the exit status 1."""
    device = choose_device(arguments.device)
    paths = find_images(arguments.images)
    trained = load_from_arguments(arguments, device)
    targets = prediction_paths(paths, arguments.output)
    predictions: list[Prediction] = []
    bar = tqdm(paths, unit="image", disable=len(paths) < _PROGRESS_FROM or None, file=sys.stderr)
    for path, image in read_images(bar):
        labels = trained.predict(image)
        write_labels(targets[path], labels, trained.classes.palette)
        drawing = prediction_picture(image, labels, trained.classes.names, trained.classes.palette)
        write_image(targets[path].with_suffix(".overlay.png"), drawing)
        predictions.append(_prediction(path, labels, trained))
        if not arguments.json:
            tqdm.write(_as_text(predictions[-1]))
    if arguments.json:
        print(json.dumps([asdict(prediction) for prediction in predictions], indent=2))
    elif predictions:
        print(f"labels and overlays are in {arguments.output}", file=sys.stderr)
    failed = len(paths) - len(predictions)
    if failed:
        print(f"{failed} of {len(paths)} files could not be read", file=sys.stderr)
    return 1 if failed else 0


def _prediction(path: str, labels: NDArray[np.uint8], trained: Trained) -> Prediction:
    names = trained.classes.names
    shares = class_counts(labels, len(names)) / labels.size
    order = [int(label) for label in np.argsort(-shares, kind="stable") if shares[label] > 0]
    return Prediction(path, order, [names[label] for label in order], [float(shares[label]) for label in order])


def _as_text(prediction: Prediction) -> str:
    rows = zip(prediction.shares[:_NAMED], prediction.names[:_NAMED], strict=True)
    more = len(prediction.names) - _NAMED
    rest = [f"           and {more} more"] if more > 0 else []
    return "\n".join([prediction.file, *(f"  {share:7.2%}  {name}" for share, name in rows), *rest])
