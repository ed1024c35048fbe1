"""Classifiers with what must be known to use them: written by training, read by evaluation and prediction."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from internimage import InternImage, create_model, imagenet, load_checkpoint
from internimage.checkpoint import describe
from internimage.tasks.training.run_directory import weights_file
from internimage.weight_files import metadata

_DEFAULT_MODEL = "internimage_t"


@dataclass(frozen=True)
class Trained:
    """A classifier.

    Attributes:
        model: in evaluation mode.
        classes: ids by label, the names of the folders that it was trained on; None where nobody wrote them down.
        size: side of the square images that it takes, pixels.
    """

    model: InternImage
    classes: tuple[str, ...] | None
    size: int

    @property
    def names(self) -> Sequence[str]:
        """Readable names by label: ImageNet's for its classes, else the ids, else "class 0" and so on."""
        count = self.model.num_classes
        if count in (1000, 21841) and self.classes in (None, imagenet.wordnet_ids(count)):
            return imagenet.class_names(count)
        return self.classes or [f"class {label}" for label in range(count)]


def description(model: nn.Module, classes: Sequence[str], size: int) -> dict[str, str]:
    """What stands beside the weights, so that `load_trained` needs nothing else."""
    return describe(model) | {"classes": json.dumps(list(classes)), "image_size": str(size)}


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", help=f"a name of internimage.list_models() ({_DEFAULT_MODEL}, or what --checkpoint says of itself)"
    )
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="a run's folder, or weights; without it the released ones are downloaded"
    )
    parser.add_argument("--num-classes", type=int, help="of a checkpoint that doesn't say (1000)")
    parser.add_argument("--size", type=int, help="side of the square that the model sees, in pixels (the model's own)")


def load_from_arguments(arguments: argparse.Namespace, device: torch.device) -> Trained:
    """The classifier that the options of `add_model_arguments` choose.

    Raises:
        ValueError: a number below 1, or a model that contradicts the checkpoint.
    """
    for name in ("num_classes", "size"):
        given = getattr(arguments, name)
        if given is not None and given < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {given}")
    trained = _load(arguments.model, arguments.checkpoint, arguments.num_classes or 1000)
    return Trained(trained.model.eval().to(device), trained.classes, arguments.size or trained.size)


def _load(name: str | None, checkpoint: str | None, num_classes: int) -> Trained:
    if checkpoint is None:
        model = create_model(name or _DEFAULT_MODEL, pretrained=True)
        return Trained(model, _imagenet_ids(model.num_classes), model.pretrained_cfg["input_size"][-1])
    path = weights_file(Path(checkpoint))
    written = metadata(path) if path.is_file() and path.suffix == ".safetensors" else {}
    if name is None and "arguments" in written:
        model = _from_arguments(path, written)
    else:
        model = create_model(
            name or _DEFAULT_MODEL, checkpoint=path if path.exists() else checkpoint, num_classes=num_classes
        )
    classes = tuple(json.loads(written["classes"])) if "classes" in written else _imagenet_ids(model.num_classes)
    size = int(written["image_size"]) if "image_size" in written else model.pretrained_cfg["input_size"][-1]
    return Trained(model, classes, size)


def _from_arguments(path: Path, written: dict[str, str]) -> InternImage:
    """A model of any shape, built as the file says."""
    with torch.device("meta"):
        model = InternImage(**json.loads(written["arguments"]))
    load_checkpoint(model, path)
    model.pretrained_cfg = {"input_size": (model.in_chans, 224, 224)}
    return model


def _imagenet_ids(num_classes: int) -> tuple[str, ...] | None:
    return imagenet.wordnet_ids(num_classes) if num_classes in (1000, 21841) else None
