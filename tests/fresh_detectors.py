"""Detectors as training leaves them, but with weights of no training, and pictures to find something in."""

from pathlib import Path

import cv2
import numpy as np
import torch

from internimage.checkpoint import save_state_dict
from internimage.tasks.detection import create_detector
from internimage.tasks.detection.class_names import Classes
from internimage.tasks.detection.trained import Trained, description
from internimage.tasks.detection.views import Views
from internimage.tasks.images import Image

CLASSES = Classes(("disc", "square"), (3, 7))
HEIGHT, WIDTH = 60, 80
_VIEWS = Views((96, 96))


def picture(seed: int) -> Image:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (WIDTH, HEIGHT)).astype(np.uint8)


def save_fresh(path: Path, name: str, classes: Classes = CLASSES) -> Trained:
    """Weights of a fresh detector that finds something everywhere."""
    torch.manual_seed(0)
    model = create_detector(name, num_classes=len(classes))
    for parameter in (*model.rpn.parameters(), *model.roi_heads.box_heads.parameters()):
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.03 if parameter.dim() == 2 else 0.05)
    save_state_dict(model.state_dict(), path, description(name, model, classes, _VIEWS))
    return Trained(model.eval(), classes, _VIEWS)
