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
from internimage.tasks.model_options import ModelFile, add_source_options, add_view_options, pair
from internimage.tasks.resizing import Size

_DEFAULT_MODEL = "mask_rcnn_internimage_t_fpn_1x_coco"


@dataclass(frozen=True)
class Trained:
    """A detector.

    Attributes:
        model: in evaluation mode; see `seeing.see`.
        classes: by label.
        views: what it sees of a picture.
        mirrored: whether it sees each view's mirror image as well.
        limit: of detections of a picture.
        counted: detections of a picture that metrics count, at most; None: as many as each metric's authors do.
        merge: what makes one of several views, a name of `merging.MERGES`.
    """

    model: nn.Module
    classes: Classes
    views: Views
    mirrored: bool = False
    limit: int = 100
    counted: int | None = None
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
    add_source_options(parser, "internimage.tasks.detection.list_detectors", _DEFAULT_MODEL)
    group = add_view_options(parser, "merge")
    group.add_argument("--merge", choices=list(MERGES), default="nms", help="how several views become one (nms)")
    group.add_argument(
        "--max-detections",
        type=int,
        metavar="N",
        help="of a picture; metrics then count as many (the model's own, of which COCO's figures count 100)",
    )


def load_from_arguments(arguments: argparse.Namespace, device: torch.device) -> Trained:
    """The detector that the options of `add_model_arguments` choose.

    Raises:
        ValueError: options that contradict each other or the checkpoint.
        ImportError: pycocotools is missing.
    """
    require_pycocotools()
    file = ModelFile(arguments.checkpoint)
    name = arguments.model or file.written.get("detector", _DEFAULT_MODEL)
    config = get_config(name)
    counted = arguments.max_detections
    if counted is not None and counted < 1:
        raise ValueError(f"--max-detections must be at least 1, got {counted}")
    limit = counted or config.per_image
    classes = _classes(arguments.classes, file.written, config.dataset)
    model = file.load(create_detector, name, len(classes))
    limit_detections(model, limit)
    bounds = json.loads(file.written["test_scale"]) if "test_scale" in file.written else config.test_scale
    views = Views(pair("--test-scale", arguments.test_scale, bounds), tuple(arguments.scales or (1.0,)))
    return Trained(model.eval().to(device), classes, views, bool(arguments.flip), limit, counted, arguments.merge)


def _classes(given: Path | None, written: dict[str, str], dataset: str) -> Classes:
    if given is not None:
        return read_classes(given)
    if "classes" in written:
        return parse_classes(written["classes"], "the weights")
    return classes_of(dataset)
