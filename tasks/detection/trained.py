"""Detectors with what must be known to use them: written by training, read by evaluation and prediction."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from internimage.checkpoint import describe
from internimage.tasks.detection.class_names import Classes, classes_of, parse_classes, read_classes
from internimage.tasks.detection.configs import get_config
from internimage.tasks.detection.inference import find_objects
from internimage.tasks.detection.merging import MERGES
from internimage.tasks.detection.models import create_detector
from internimage.tasks.detection.objects import Found
from internimage.tasks.detection.pycoco import require_pycocotools
from internimage.tasks.detection.seeing import limit_detections
from internimage.tasks.detection.views import Views
from internimage.tasks.images import Image
from internimage.tasks.resizing import Size
from internimage.tasks.training.run_directory import weights_file
from internimage.weight_files import metadata

_DEFAULT_MODEL = "mask_rcnn_internimage_t_fpn_1x_coco"
_DEFAULT_LIMIT = 100


@dataclass(frozen=True)
class Trained:
    """A detector.

    Attributes:
        model: in evaluation mode; see `seeing.see`.
        classes: by label.
        views: what it sees of a picture.
        mirrored: whether it sees each view's mirror image as well.
        limit: of detections of a picture.
        merge: what makes one of several views, a name of `merging.MERGES`.
    """

    model: nn.Module
    classes: Classes
    views: Views
    mirrored: bool = False
    limit: int = _DEFAULT_LIMIT
    merge: str = "nms"

    def predict(self, image: Image) -> Found:
        """The objects of a picture, uint8 [H, W, 3]."""
        height, width = image.shape[:2]
        return self.find(self.views(image), (height, width))

    def find(self, views: list[torch.Tensor], size: Size) -> Found:
        """The objects of a picture of this height and width, from its views; see `Views`."""
        device = next(self.model.parameters()).device
        return find_objects(
            self.model,
            [view.to(device) for view in views],
            size,
            mirrored=self.mirrored,
            merge=MERGES[self.merge],
            limit=self.limit,
        )


def description(name: str, model: nn.Module, classes: Classes, views: Views) -> dict[str, str]:
    """What stands beside the weights, so that `load_from_arguments` needs nothing else."""
    return describe(model) | {
        "detector": name,
        "classes": classes.to_json(),
        "test_scale": json.dumps(views.bounds),
    }


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        help="a name of internimage.tasks.detection.list_detectors() "
        f"({_DEFAULT_MODEL}, or what --checkpoint says of itself)",
    )
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="a run's folder, or weights; without it the released ones are downloaded"
    )
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="classes.json of a checkpoint that doesn't say (the model's)"
    )
    group = parser.add_argument_group("how the model looks at a picture (default: as in its official test)")
    group.add_argument(
        "--test-scale",
        type=int,
        nargs="*",
        metavar="PIXELS",
        help="bounds of its long and short side; none: its own size",
    )
    group.add_argument("--scales", type=float, nargs="+", metavar="FACTOR", help="of the views to merge (1)")
    group.add_argument("--flip", action=argparse.BooleanOptionalAction, help="merge with the mirrored views")
    group.add_argument("--merge", choices=list(MERGES), default="nms", help="how several views become one (nms)")
    group.add_argument(
        "--max-detections",
        type=int,
        metavar="N",
        help=f"of a picture; metrics count as many ({_DEFAULT_LIMIT}, of LVIS 300)",
    )


def load_from_arguments(arguments: argparse.Namespace, device: torch.device) -> Trained:
    """The detector that the options of `add_model_arguments` choose.

    Raises:
        ValueError: options that contradict each other or the checkpoint.
        ImportError: pycocotools is missing.
    """
    require_pycocotools()
    path = None if arguments.checkpoint is None else weights_file(Path(arguments.checkpoint))
    written = metadata(path) if path is not None and path.is_file() and path.suffix == ".safetensors" else {}
    name = arguments.model or written.get("detector", _DEFAULT_MODEL)
    config = get_config(name)
    usual = 300 if config.dataset.startswith("LVIS") else _DEFAULT_LIMIT
    limit = usual if arguments.max_detections is None else arguments.max_detections
    if limit < 1:
        raise ValueError(f"--max-detections must be at least 1, got {limit}")
    classes = _classes(arguments.classes, written, config.dataset)
    if path is None:
        model = create_detector(name, pretrained=True)
    else:
        source = path if path.exists() else arguments.checkpoint
        model = create_detector(name, checkpoint=source, num_classes=len(classes))
    if model.num_classes != len(classes):
        raise ValueError(
            f"{name} tells {model.num_classes} classes apart, the list of classes has {len(classes)}; give the list "
            "that it was trained on as --classes FILE"
        )
    limit_detections(model, limit)
    bounds = json.loads(written["test_scale"]) if "test_scale" in written else config.test_scale
    views = Views(_bounds(arguments.test_scale, bounds), tuple(arguments.scales or (1.0,)))
    return Trained(model.eval().to(device), classes, views, bool(arguments.flip), limit, arguments.merge)


def _classes(given: Path | None, written: dict[str, str], dataset: str) -> Classes:
    if given is not None:
        return read_classes(given)
    if "classes" in written:
        return parse_classes(written["classes"], "the weights")
    return classes_of(dataset)


def _bounds(given: list[int] | None, default: Size | list[int] | None) -> Size | None:
    """Two numbers, or None where the option is given without any."""
    numbers = default if given is None else given
    if not numbers:
        return None
    if len(numbers) != 2 or min(numbers) < 1:
        raise ValueError(f"--test-scale takes two numbers of at least 1, or none, got {list(numbers)}")
    return numbers[0], numbers[1]
