"""Artifacts of models that compile in a few seconds each, made once for all processes of a test run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from internimage.layers import DCNv3
from internimage.ops.file_lock import file_lock
from internimage.tasks.exportable import Exportable, save_artifact

CLASSES = ["a cat", 'a "dog"', "an émeu"]
SIZES = {"batch": (1, 6), "height": (32, 256), "width": (32, 256)}


class Classifier(nn.Module):
    """A convolution and DCNv3, with offsets and masks that are not zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=4, padding=1)
        self.dcn = DCNv3(16, 2)
        self.classifier = nn.Linear(16, len(CLASSES))
        for layer in (self.dcn.offset, self.dcn.mask, self.classifier):
            nn.init.normal_(layer.weight, std=0.5)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dcn(self.stem(image).permute(0, 2, 3, 1)).mean((1, 2)))
        return logits


class Segmentor(nn.Module):
    """Classes by colour."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(3, len(CLASSES), 1)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.classifier(image)
        return scores


class Detector(nn.Module):
    """Two objects at places that depend on the size of the image, with masks that depend on its colours."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.tensor([[0.1, 0.2, 0.6, 0.9], [0.3, 0.05, 0.95, 0.7], [0, 0, 0, 0]]))

    def forward(self, image: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        n = image.shape[0]
        boxes = self.places * sizes.flip(1).repeat(1, 2).unsqueeze(1)
        scores = torch.stack((image.mean((1, 2, 3)).sigmoid() / 4 + 0.7, image.new_full((n,), 0.5)), dim=1)
        scores = torch.cat((scores, image.new_full((n, 1), -1.0)), dim=1)
        labels = torch.tensor([2, 0, 0], device=image.device).expand(n, 3)
        ramp = torch.linspace(0, 1, 7)
        masks = (ramp + ramp.view(-1, 1)) / 2 + image.mean((1, 2, 3)).view(-1, 1, 1, 1) / 9
        return boxes, scores, labels, torch.full((n,), 2), masks.expand(n, 3, 7, 7)


def exportables() -> dict[str, Exportable]:
    """A model of each kind, by its kind."""
    torch.manual_seed(0)
    fit = {"bounds": [120, 90], "divisor": 32, "within": [SIZES["height"], SIZES["width"]]}
    tasks = {
        "classification": (Classifier(), ("logits",), {"crop": 64}),
        "segmentation": (Segmentor(), ("scores",), fit | {"pad": False}),
        "detection": (Detector(), ("boxes", "scores", "labels", "counts", "masks"), fit | {"pad": True}),
    }
    return {
        kind: Exportable(model.eval(), outputs, {"kind": kind, "classes": CLASSES, "view": view}, kind == "detection")
        for kind, (model, outputs, view) in tasks.items()
    }


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` has filled, in one of the processes that run the tests."""
    base = factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen-") else base) / name
    with file_lock(folder.with_suffix(".lock")):
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            make(partial)
            partial.rename(folder)
    return folder


def artifact(factory: pytest.TempPathFactory, kind: str, **options: object) -> Path:
    """The compiled artifact of a kind."""
    sizes = dict(SIZES)
    if kind == "segmentation":
        sizes |= {"batch": None, "width": (32, 100)}  # pictures are made smaller for it
    return once(factory, f"artifact-{kind}", lambda path: save_artifact(exportables()[kind], path, **sizes, **options))
