"""Small segmentors of each kind, with random weights."""

from typing import Any

import torch

from internimage.backbone import InternImageFeatures
from internimage.tasks.segmentation import Segmentor
from internimage.tasks.segmentation.mask2former import Mask2FormerHead
from internimage.tasks.segmentation.pixel_head import FCNHead
from internimage.tasks.segmentation.segformer import SegFormerHead
from internimage.tasks.segmentation.upernet import UperNetHead

METHODS = ("upernet", "segformer", "mask2former")
BACKBONE: dict[str, Any] = {"channels": 16, "depths": (1, 1, 1, 1), "groups": (1, 2, 4, 8), "layer_scale": 1.0}
WIDTHS = (16, 32, 64, 128)


def small_segmentor(method: str = "upernet", num_classes: int = 5, seed: int = 0, **options: Any) -> Segmentor:
    """A segmentor in evaluation mode; `options` are the backbone's."""
    torch.manual_seed(seed)
    backbone = InternImageFeatures(head=None, **{**BACKBONE, **options})
    if method == "upernet":
        head = UperNetHead(WIDTHS, num_classes, channels=8, bins=(1, 3))
        model = Segmentor(backbone, head, FCNHead(WIDTHS, num_classes, channels=8))
    elif method == "segformer":
        model = Segmentor(backbone, SegFormerHead(WIDTHS, num_classes, channels=8))
    else:
        sizes = {"pixel_hidden_channels": 8, "hidden_channels": 8, "pixel_layers": 1, "layers": 2}
        model = Segmentor(backbone, Mask2FormerHead(WIDTHS, num_classes, channels=32, heads=2, queries=4, **sizes))
    for buffer in model.buffers():
        buffer.add_(1)
    return model.eval()
