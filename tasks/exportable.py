"""Models of every task as they are deployed: with names for their outputs, and how pictures become their inputs.

Beside the model an artifact stores a dict, its task:

    kind: "classification", "features", "segmentation" or "detection"
    classes: names by label; none for features
    palette: of segmentation, a colour [R, G, B] for each class
    pixels: form of the image, a name in `internimage.deploy.PIXELS`
    mean, std: what a normalised image is made with, of RGB in [0, 1]
    view: how a picture becomes the image: {"crop": side}, short side to it and the middle cut out;
        {"bounds": [long, short] or null, "divisor": n, "pad": bool}, fitted to the bounds, then stretched to multiples
        of n, or padded to them at the right and the bottom; "within": [[least, greatest] height, the same of width],
        which the image keeps to: a larger picture is made smaller
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from internimage import InternImage
from internimage.checkpoint import mapped_weights
from internimage.deploy import (
    TOLERANCES,
    Deployed,
    DeployedDetector,
    Format,
    Pixels,
    Precision,
    Processor,
    Range,
    quantise,
)
from internimage.deploy import save_artifact as save
from internimage.models import IMAGENET_MEAN, IMAGENET_STD
from internimage.tasks.artifact_pictures import picture_inputs
from internimage.tasks.classification import trained as classifiers
from internimage.tasks.detection import FixedSizeDetector
from internimage.tasks.detection import configs as detector_configs
from internimage.tasks.detection import trained as detectors
from internimage.tasks.detection.batch import DIVISOR
from internimage.tasks.detection.detections import Detector
from internimage.tasks.images import Image
from internimage.tasks.model_options import ModelFile
from internimage.tasks.segmentation import configs as segmentor_configs
from internimage.tasks.segmentation import trained as segmentors

# Of height and width, where the model takes pictures of any shape. A map of one pixel would be another graph, and the
# coarsest one of detectors has a stride of 64.
_RANGE = (64, 1536)
_PADDED_RANGE = (96, 1536)


@dataclass(frozen=True)
class Exportable:
    """A model that can be deployed.

    Attributes:
        model: in evaluation mode, image [N, 3, H, W], normalised -> outputs; with `padded` also sizes [N, 2].
        outputs: names of the outputs.
        task: as above, without what the form of the pixels adds.
        padded: whether it takes padded images and their sizes.
    """

    model: nn.Module
    outputs: tuple[str, ...]
    task: dict[str, Any]
    padded: bool = False


def save_artifact(
    exportable: Exportable,
    folder: str | PathLike[str],
    *,
    picture: Image | None = None,
    format: Format = "aoti",
    batch: Range | None = (1, 64),
    height: Range | None = None,
    width: Range | None = None,
    pixels: Pixels = "uint8",
    precision: Precision = "float32",
    calibration: Sequence[Image] = (),
    processor: Processor = "native",
    prepare: bool | None = None,
) -> Path:
    """Write a folder that runs the model elsewhere; see `internimage.deploy.save_artifact`.

    Args:
        exportable: the model; it is changed to the precision.
        folder: to write.
        picture: of which the sample is made; None: a drawn one.
        format: of the model's file.
        batch: least, 1, and greatest number of pictures in a call; None: always one.
        height: of the images that the model sees; None: fixed for classifiers of a fixed side, else 64 to 1536, for
            detectors 96 to 1536.
        width: the same.
        pixels: form of the images.
        precision: that the model computes in.
        calibration: pictures to find the scales of int8 with, see `internimage.deploy.quantise`; none: no int8.
        processor: that the code is for.
        prepare: see `internimage.deploy.save_artifact`.

    Raises:
        ValueError: sizes that leave the sample out, a precision that the format has not got, and as for
            `internimage.deploy.save_artifact`.
    """
    free = _PADDED_RANGE if exportable.padded else _RANGE
    view = exportable.task["view"]
    if batch is not None and batch[0] != 1:
        raise ValueError(f"save_artifact: batch must start at 1, as one picture alone must fit, got {batch}")
    if format == "onnx" and precision == "bfloat16":
        raise ValueError("save_artifact: onnxruntime has no convolution in bfloat16; take float16 or float32")
    for name, sizes_of in (("height", height), ("width", width)):
        side = view.get("crop")
        if side is not None and sizes_of is not None and not sizes_of[0] <= side <= sizes_of[1]:
            raise ValueError(
                f"save_artifact: {name} {sizes_of} must hold {side}, the side of the square that this classifier looks "
                'at; give it another one (on the command line by --predict="--size N")'
            )
    if "crop" not in view:
        height, width = height or free, width or free
        view = {**view, "within": [list(height), list(width)]}
    task = {"pixels": pixels, "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD), **exportable.task, "view": view}
    wrapper = DeployedDetector if exportable.padded else Deployed
    model: nn.Module = wrapper(exportable.model, pixels=pixels, precision=precision).eval()
    device = next(exportable.model.parameters()).device
    sizes = {"batch": batch, "height": height, "width": width}

    def inputs(image: Image) -> tuple[Tensor, ...]:
        return tuple(tensor.to(device) for tensor in picture_inputs(image, task))

    if calibration:
        if precision != "float32":
            raise ValueError(f"save_artifact: int8 is made of float32, got precision {precision}; leave one away")
        model = quantise(model, map(inputs, calibration), **sizes)
    return save(
        model,
        inputs(_drawn_picture() if picture is None else picture),
        folder,
        format=format,
        processor=processor,
        prepare=prepare,
        outputs=exportable.outputs,
        unordered=exportable.padded,
        tolerance=TOLERANCES["int8" if calibration else precision],
        task=task,
        **sizes,
    )


def classifier(model: InternImage, *, classes: Sequence[str], size: int) -> Exportable:
    """A classifier of the middle square of a picture.

    Args:
        model: in evaluation mode.
        classes: names by label.
        size: side of the square, pixels.
    """
    return Exportable(model, ("logits",), {"kind": "classification", "classes": list(classes), "view": {"crop": size}})


class _StageMaps(nn.Module):
    def __init__(self, model: InternImage) -> None:
        super().__init__()
        model.prune_intermediate_layers()
        self.model = model

    def forward(self, image: Tensor) -> Any:
        maps: Any = self.model.forward_intermediates(image, intermediates_only=True)
        # torch 2.13 can't compile outputs of free size that are views of channels-last maps.
        return [x.contiguous() for x in maps]


def features(model: InternImage) -> Exportable:
    """The maps of a backbone's four stages. The model loses its head."""
    outputs = tuple(f"stride{stride}" for stride in model.feature_info.reduction())
    view = _view(None, DIVISOR, pad=False)
    return Exportable(_StageMaps(model).eval(), outputs, {"kind": "features", "view": view})


def segmentor(trained: segmentors.Trained) -> Exportable:
    """A segmentor, which looks at whole pictures, once."""
    classes = trained.classes
    task = {
        "kind": "segmentation",
        "classes": list(classes.names),
        "palette": classes.palette.tolist(),
        "view": _view(trained.views.bounds, trained.views.divisor, pad=False),
    }
    return Exportable(trained.model, ("scores",), task)


def detector(trained: detectors.Trained) -> Exportable:
    """A detector, which looks at a picture once."""
    model = cast(Detector, trained.model)
    outputs = ("boxes", "scores", "labels", "counts", *(("masks",) if model.has_masks else ()))
    task = {
        "kind": "detection",
        "classes": list(trained.classes.names),
        "view": _view(trained.views.bounds, DIVISOR, pad=True),
    }
    return Exportable(FixedSizeDetector(model).eval(), outputs, task, padded=True)


def _view(bounds: Sequence[int] | None, divisor: int, *, pad: bool) -> dict[str, Any]:
    return {"bounds": None if bounds is None else list(bounds), "divisor": divisor, "pad": pad}


@mapped_weights()
def load(name: str | None, checkpoint: str | None, options: Sequence[str] = (), *, maps: bool = False) -> Exportable:
    """A model by its name, or as its checkpoint says, whose file must stay as it is: see `mapped_weights`.

    Args:
        name: of a classifier, a segmentor or a detector; None: what the checkpoint says of itself.
        checkpoint: a run's folder, or weights; None: the released ones.
        options: of `internimage predict` that choose the model and how it looks at a picture, as words.
        maps: deploy the maps of a classifier's backbone instead of its classes.

    Raises:
        ValueError: options that contradict each other or the checkpoint.
    """
    written = ModelFile(checkpoint).written
    device = torch.device("cpu")
    words = [*(("--model", name) if name else ()), *(("--checkpoint", checkpoint) if checkpoint else ()), *options]
    segments = "segmentor" in written or name in segmentor_configs.CONFIGS
    detects = "detector" in written or name in detector_configs.CONFIGS
    if maps and (segments or detects):
        raise ValueError("--features: the maps of a classifier's stages, but this is no classifier; leave it away")
    if segments:
        arguments = _parsed(segmentors.add_model_arguments, words)
        return segmentor(segmentors.load_from_arguments(arguments, device))
    if detects:
        arguments = _parsed(detectors.add_model_arguments, words)
        return detector(detectors.load_from_arguments(arguments, device))
    arguments = _parsed(classifiers.add_model_arguments, words)
    trained = classifiers.load_from_arguments(arguments, device)
    if maps:
        return features(trained.model)
    return classifier(trained.model, classes=trained.names, size=trained.size)


def _parsed(add_arguments: Callable[[argparse.ArgumentParser], None], words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="internimage export MODEL", usage=argparse.SUPPRESS, add_help=False)
    add_arguments(parser)
    return parser.parse_args(words)


def _drawn_picture(height: int = 480, width: int = 640) -> Image:
    """A picture with large and small things of many colours."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [np.sin(x / 31 + y / 47), np.sin(x * y / 9001), np.sin((x - y) / 7)]
    picture: Image = np.stack([(127.5 + 127 * wave) for wave in waves], axis=-1).astype(np.uint8)
    return picture
