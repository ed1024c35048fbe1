"""Small two-stage detectors of each kind, with random weights."""

from dataclasses import replace
from typing import Any

import torch

from internimage.backbone import InternImageFeatures
from internimage.tasks.detection import MaskRCNN
from internimage.tasks.detection.configs import CONFIGS
from internimage.tasks.detection.models import on_backbone

BACKBONE: dict[str, Any] = {"channels": 16, "depths": (1, 1, 1, 1), "groups": (1, 2, 4, 8), "layer_scale": 1.0}
METHODS = {
    "mask": "mask_rcnn_internimage_t_fpn_1x_coco",
    "cascade": "cascade_internimage_l_fpn_1x_coco",
    "boxes": "cascade_internimage_xl_fpn_3x_crowd_human",
}


def small_detector(method: str = "mask", num_classes: int = 5, seed: int = 0, **options: Any) -> MaskRCNN:
    """A detector in evaluation mode that finds something everywhere; `options` are the backbone's."""
    torch.manual_seed(seed)
    config = replace(CONFIGS[METHODS[method]], channels=16, hidden_channels=24)
    model = on_backbone(InternImageFeatures(head=None, **{**BACKBONE, **options}), config, num_classes)
    for parameter in (*model.rpn.parameters(), *model.roi_heads.box_heads.parameters()):
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1 if parameter.dim() == 2 else 0.05)
    for buffer in model.buffers():
        buffer.add_(1)
    return model.eval()
