"""Segmentors with what must be known to use them: written by training, read by evaluation and prediction."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from internimage.checkpoint import describe
from internimage.tasks.images import Image
from internimage.tasks.model_options import ModelFile, add_source_options, add_view_options, pair
from internimage.tasks.resizing import Size
from internimage.tasks.segmentation.class_names import Classes, classes_of, parse_classes, read_classes
from internimage.tasks.segmentation.configs import get_config
from internimage.tasks.segmentation.inference import Scorer, Sliding, predict_classes
from internimage.tasks.segmentation.models import create_segmentor
from internimage.tasks.segmentation.views import Views

# Names of lists of classes by the data sets of the official configurations.
_CLASSES = {
    "ADE20K": "ade20k",
    "Cityscapes": "cityscapes",
    "Mapillary Vistas": "cityscapes",
    "COCO-Stuff-164K": "cocostuff",
    "COCO-Stuff-10K": "cocostuff",
    "Pascal Context 59": "pascal_context59",
    "NYU Depth v2": "nyu40",
}
_DEFAULT_MODEL = "upernet_internimage_t_512_160k_ade20k"


@dataclass(frozen=True)
class Trained:
    """A segmentor.

    Attributes:
        model: in evaluation mode.
        classes: by label.
        views: what it sees of a picture.
        mirrored: whether it sees each view's mirror image as well.
        window: size of the windows that it looks at a view in, pixels; None: whole views.
        stride: between windows, pixels.
    """

    model: nn.Module
    classes: Classes
    views: Views
    mirrored: bool = False
    window: Size | None = None
    stride: Size | None = None

    @property
    def scorer(self) -> Scorer:
        """Image [N, 3, H, W] -> scores, whole or in windows."""
        if self.window is None:
            return self.model
        return Sliding(self.model, self.window, self.stride or self.window)

    def predict(self, image: Image) -> NDArray[np.uint8]:
        """The class of each pixel of a picture, uint8 [H, W]."""
        device = next(self.model.parameters()).device
        views = [view.unsqueeze(0).to(device) for view in self.views(image)]
        height, width = image.shape[:2]
        classes = predict_classes(self.scorer, views, (height, width), mirrored=self.mirrored)
        labels: NDArray[np.uint8] = classes[0].to(torch.uint8).cpu().numpy()
        return labels


def description(name: str, model: nn.Module, classes: Classes, views: Views) -> dict[str, str]:
    """What stands beside the weights, so that `load_from_arguments` needs nothing else."""
    return describe(model) | {
        "segmentor": name,
        "classes": json.dumps({"names": classes.names, "palette": classes.palette.tolist()}),
        "test_scale": json.dumps(views.bounds),
    }


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_options(parser, "internimage.tasks.segmentation.list_segmentors", _DEFAULT_MODEL)
    group = add_view_options(parser, "average")
    group.add_argument("--window", type=int, nargs="*", metavar="PIXELS", help="height and width; none: whole views")
    group.add_argument("--stride", type=int, nargs=2, metavar="PIXELS", help="between windows, down and across")


def load_from_arguments(arguments: argparse.Namespace, device: torch.device) -> Trained:
    """The segmentor that the options of `add_model_arguments` choose.

    Raises:
        ValueError: options that contradict each other or the checkpoint.
    """
    file = ModelFile(arguments.checkpoint)
    name = arguments.model or file.written.get("segmentor", _DEFAULT_MODEL)
    config = get_config(name)
    classes = _classes(arguments.classes, file.written, config.dataset)
    model = file.load(create_segmentor, name, len(classes))
    bounds = json.loads(file.written["test_scale"]) if "test_scale" in file.written else config.test_scale
    bounds = pair("--test-scale", arguments.test_scale, bounds)
    views = Views(bounds, tuple(arguments.scales or config.test_factors), config.divisor)
    mirrored = config.mirrored if arguments.flip is None else arguments.flip
    window = pair("--window", arguments.window, config.window)
    stride = pair("--stride", arguments.stride, config.window_stride if arguments.window is None else None)
    return Trained(model.eval().to(device), classes, views, mirrored, window, stride)


def _classes(given: Path | None, written: dict[str, str], dataset: str) -> Classes:
    if given is not None:
        return read_classes(given)
    if "classes" in written:
        return parse_classes(written["classes"], "the weights").classes
    if not dataset:
        raise ValueError("the weights don't say which classes they tell apart; give them as --classes FILE")
    return classes_of(_CLASSES[dataset])
