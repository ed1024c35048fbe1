"""`internimage predict`: the classes of pictures, as text, as JSON and drawn beside the pictures."""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from internimage.tasks.classification.trained import Trained, add_model_arguments, load_from_arguments
from internimage.tasks.devices import add_device_argument, choose_device
from internimage.tasks.drawing import draw_predictions
from internimage.tasks.images import Image, prepare, write_image
from internimage.tasks.picture_files import find_images, prediction_paths, read_images

EXAMPLES = """examples:
  internimage predict cat.jpg                                      released weights, downloaded on first use
  internimage predict photos/ 'more/*.png' --model internimage_b --output annotated
  internimage predict cat.jpg --model internimage_t --checkpoint internimage_t_1k_224.pth --top 3
  internimage predict photos/ --checkpoint runs/photos             what `internimage train` made
  internimage predict photos/ --json > predictions.json
"""

_PROGRESS_FROM = 20  # pictures


@dataclass(frozen=True)
class Prediction:
    """The best classes of one picture, best first."""

    file: str
    labels: list[int]
    names: list[str]
    probabilities: list[float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="picture files, folders of them, or wildcards")
    add_model_arguments(parser)
    parser.add_argument("--top", type=int, default=5, help="how many classes to name (5)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write an annotated picture of each image there")
    parser.add_argument("--batch-size", type=int, default=8, help="pictures that the model sees at once (8)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    add_device_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Name what the pictures show; files that can't be read are reported, and make the exit status 1."""
    for name in ("top", "batch_size"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(arguments, name)}")
    device = choose_device(arguments.device)
    paths = find_images(arguments.images)
    classifier = Classifier(load_from_arguments(arguments, device), device)
    drawings = prediction_paths(paths, arguments.output) if arguments.output else {}
    predictions: list[Prediction] = []
    failed = 0
    with tqdm(total=len(paths), unit="image", disable=len(paths) < _PROGRESS_FROM or None, file=sys.stderr) as progress:
        for start in range(0, len(paths), arguments.batch_size):
            batch = paths[start : start + arguments.batch_size]
            readable = dict(read_images(batch))
            failed += len(batch) - len(readable)
            for prediction in classifier.predict(readable, arguments.top):
                predictions.append(prediction)
                if not arguments.json:
                    tqdm.write(_as_text(prediction))
                if prediction.file in drawings:
                    drawing = draw_predictions(
                        readable[prediction.file], prediction.file, prediction.names, prediction.probabilities
                    )
                    write_image(drawings[prediction.file], drawing)
            progress.update(len(batch))
    if arguments.json:
        print(json.dumps([asdict(prediction) for prediction in predictions], indent=2))
    if failed:
        print(f"{failed} of {len(paths)} files could not be read", file=sys.stderr)
    return 1 if failed else 0


class Classifier:
    """A model with what must be known to use it: the size of its input and the names of its classes."""

    def __init__(self, trained: Trained, device: torch.device) -> None:
        self.model = trained.model
        self.size = trained.size
        self.names = trained.names
        self.device = device

    @torch.no_grad()
    def predict(self, images: dict[str, Image], top: int) -> Iterator[Prediction]:
        """The `top` best classes of pictures, all seen at once."""
        if not images:
            return
        batch = torch.stack([prepare(image, self.size) for image in images.values()]).to(self.device)
        probabilities: Tensor = self.model(batch).float().softmax(-1).cpu()
        best = probabilities.topk(min(top, len(self.names)))
        for file, values, labels in zip(images, best.values.tolist(), best.indices.tolist(), strict=True):
            yield Prediction(file, labels, [self.names[label] for label in labels], values)


def _as_text(prediction: Prediction) -> str:
    rows = zip(prediction.probabilities, prediction.names, strict=True)
    return "\n".join([prediction.file, *(f"  {probability:7.2%}  {name}" for probability, name in rows)])
