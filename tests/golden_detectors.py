"""The small official two-stage detectors of the reference values."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from golden_heads import Golden, golden_backbone
from torch import Tensor

from internimage import load_checkpoint
from internimage.tasks.detection import MaskRCNN
from internimage.tasks.detection.batch import ImageBatch, Truth
from internimage.tasks.detection.box_head import BoxHead
from internimage.tasks.detection.boxes import BoxCoder
from internimage.tasks.detection.configs import CONFIGS
from internimage.tasks.detection.fpn import FPN
from internimage.tasks.detection.mask_head import MaskHead
from internimage.tasks.detection.mask_rcnn import DetectorTraining
from internimage.tasks.detection.models import training_settings
from internimage.tasks.detection.roi_heads import RoIHeads, Selection
from internimage.tasks.detection.rpn import RPN, ProposalLimits

# The golden model's training settings are those of these official configurations.
DETECTORS = {
    "mask_rcnn_t": "mask_rcnn_internimage_t_fpn_1x_coco",
    "cascade_mask_rcnn_l": "cascade_internimage_l_fpn_1x_coco",
    "cascade_rcnn_agnostic_l": "cascade_internimage_xl_fpn_3x_crowd_human",
}
ALL = 10**6  # samples: none is left out, so nothing is random


def golden_detector(name: str, reference: Golden) -> MaskRCNN:
    """The model with the official weights, in float32 and evaluation mode."""
    config = reference.meta["model_cfg"]
    heads, test, train = config["roi_head"], config["test_cfg"], config["train_cfg"]
    box_heads = heads["bbox_head"] if isinstance(heads["bbox_head"], list) else [heads["bbox_head"]]
    channels = config["neck"]["out_channels"]
    model = MaskRCNN(
        golden_backbone(config["backbone"]),
        FPN(config["neck"]["in_channels"], channels),
        RPN(channels),
        RoIHeads(
            [_box_head(head) for head in box_heads],
            [_mask_head(heads["mask_head"]) for _ in box_heads if "mask_head" in heads],
            selection=Selection(per_image=test["rcnn"]["max_per_img"]),
        ),
        training=_training(name, train),
        limits=_limits(test["rpn"]),
    )
    load_checkpoint(model, {"state_dict": reference.state, "meta": {}})
    return model.eval()


def golden_batch(reference: Golden, dtype: torch.dtype) -> ImageBatch:
    metas = reference.meta["img_metas"]
    sizes, padded = (torch.tensor([meta[key][:2] for meta in metas]) for key in ("img_shape", "pad_shape"))
    return ImageBatch(reference["in/img"].to(dtype), sizes, padded)


def golden_truth(reference: Golden, dtype: torch.dtype) -> list[Truth]:
    return [
        Truth(
            reference[f"gt/bboxes.{i}"].to(dtype),
            reference[f"gt/labels.{i}"],
            unpacked(reference, f"gt/masks_packed.{i}", (-1, *reference["in/img"].shape[2:])),
        )
        for i in range(2)
    ]


def unpacked(reference: Golden, name: str, shape: tuple[int, ...]) -> Tensor:
    """Stored bits as a tensor of truth values; -1 stands for what is left."""
    bits = np.unpackbits(reference.arrays[name])
    used = int(np.prod([side for side in shape if side > 0]))
    return torch.from_numpy(bits[: len(bits) // used * used].astype(bool)).view(shape)


def _box_head(config: dict[str, Any]) -> BoxHead:
    return BoxHead(
        config["in_channels"],
        config["num_classes"],
        channels=config["fc_out_channels"],
        fcs=config.get("num_shared_fcs", 2),
        convs=config.get("num_shared_convs", 0),
        conv_channels=config.get("conv_out_channels", 0),
        class_agnostic=config["reg_class_agnostic"],
        coder=BoxCoder(tuple(config["bbox_coder"]["target_stds"])),
    )


def _mask_head(config: dict[str, Any]) -> MaskHead:
    return MaskHead(config["in_channels"], config["num_classes"], channels=config["conv_out_channels"])


def _limits(config: dict[str, Any]) -> ProposalLimits:
    return ProposalLimits(per_level=config["nms_pre"], per_image=config["max_per_img"])


def _training(name: str, config: dict[str, Any]) -> DetectorTraining:
    settings = training_settings(CONFIGS[DETECTORS[name]])
    return DetectorTraining(
        rpn=replace(settings.rpn, samples=ALL),
        stages=tuple(replace(stage, samples=ALL) for stage in settings.stages),
        limits=_limits(config["rpn_proposal"]),
    )
