"""Detectors by name: `create_detector`."""

from __future__ import annotations

from functools import partial
from os import PathLike
from typing import Any

from internimage.backbone import InternImageFeatures
from internimage.composite import CompositeInternImage
from internimage.models import variant_arguments
from internimage.tasks.detection.assign import Assigner
from internimage.tasks.detection.box_head import BoxHead
from internimage.tasks.detection.boxes import BoxCoder
from internimage.tasks.detection.configs import (
    BoxLossName,
    DetectorConfig,
    DINOConfig,
    StageConfig,
    TwoStageConfig,
    get_config,
)
from internimage.tasks.detection.dino import DINO, CompositeDINO
from internimage.tasks.detection.dino_denoising import DenoisingSettings
from internimage.tasks.detection.fpn import FPN
from internimage.tasks.detection.losses import BoxLoss, delta_loss, giou_loss
from internimage.tasks.detection.mask_head import MaskHead
from internimage.tasks.detection.mask_rcnn import DetectorTraining, MaskRCNN
from internimage.tasks.detection.roi_heads import RoIHeads, StageTraining
from internimage.tasks.detection.rpn import RPN, ProposalLimits, RPNTraining
from internimage.tasks.named_models import build_from, choose_source
from internimage.variants import VARIANTS

_BOX_LOSSES: dict[BoxLossName, BoxLoss] = {
    "l1": delta_loss,
    "smooth_l1": partial(delta_loss, beta=1.0),
    "giou": giou_loss,
}


def create_detector(
    name: str,
    pretrained: bool = False,
    *,
    checkpoint: str | PathLike[str] | None = None,
    num_classes: int | None = None,
    **overrides: Any,
) -> MaskRCNN | DINO:
    """Build a detector, an official one with its weights if wanted.

    Args:
        name: a name of `list_detectors()`.
        pretrained: load the official weights, downloaded on first use. A `num_classes` that differs from theirs gets
            fresh classifiers on top of them.
        checkpoint: load this instead: whatever `internimage.load_checkpoint` reads.
        num_classes: without background; None: as many as the data set has. The small ones, which belong to no data
            set, need it.
        **overrides: arguments of `InternImage`, or of `CompositeInternImage`, that replace the variant's. The drop path
            rate is 0 unless given here; `get_config(name).drop_path_rate` is the official one.

    Raises:
        ValueError: an unknown name (the error lists the closest), one without released weights, `pretrained` together
            with `checkpoint`, or no `num_classes` where it is needed.
    """
    config = get_config(name)
    source = choose_source(
        "create_detector", name, pretrained=pretrained, checkpoint=checkpoint, released=config.checkpoint
    )
    if num_classes is None and not config.num_classes:
        raise ValueError(f"create_detector: {name} belongs to no data set; give num_classes")
    wanted = config.num_classes if num_classes is None else num_classes
    return build_from(
        source,
        lambda classes: build_detector(config, classes, **overrides),
        wanted,
        of_file=config.num_classes if pretrained else wanted,
    )


def build_detector(config: DetectorConfig, num_classes: int, **overrides: Any) -> MaskRCNN | DINO:
    """The model of a configuration, freshly initialised; see `create_detector`."""
    arguments = variant_arguments(VARIANTS[config.variant], dense=True) | overrides
    if isinstance(config, DINOConfig) and config.composite:
        del arguments["head"]
        return on_backbone(CompositeInternImage(**arguments), config, num_classes)
    return on_backbone(InternImageFeatures(**arguments), config, num_classes)


def on_backbone(backbone: Any, config: DetectorConfig, num_classes: int) -> MaskRCNN | DINO:
    """The heads of a configuration on any backbone.

    Args:
        backbone: image -> maps [N, C_i, H_i, W_i], strides 4 to 32; `feature_info.channels()` tells C_i, as timm's do.
            For a composite DINO it returns two lists of maps.
        config: of the heads.
        num_classes: without background.
    """
    if isinstance(config, DINOConfig):
        return _dino(backbone, config, num_classes)
    if isinstance(config, TwoStageConfig):
        return _mask_rcnn(backbone, config, num_classes)
    raise TypeError(f"expected a DINOConfig or a TwoStageConfig, got {type(config).__name__}")


def _dino(backbone: Any, config: DINOConfig, num_classes: int) -> DINO:
    kind = CompositeDINO if config.composite else DINO
    return kind(
        backbone,
        backbone.feature_info.channels()[-3:],
        num_classes,
        channels=config.channels,
        hidden_channels=config.hidden_channels,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        queries=config.queries,
        per_image=config.per_image,
        denoising=DenoisingSettings(config.denoising_queries),
    )


def _mask_rcnn(backbone: Any, config: TwoStageConfig, num_classes: int) -> MaskRCNN:
    channels = config.channels
    box_heads = [
        BoxHead(
            channels,
            num_classes,
            channels=config.hidden_channels,
            fcs=config.fcs,
            convs=config.convs,
            conv_channels=channels,
            class_agnostic=config.class_agnostic,
            coder=BoxCoder(stage.stds),
        )
        for stage in config.stages
    ]
    cascade = len(config.stages) > 1
    mask_heads = [
        MaskHead(channels, num_classes, channels=channels, plain=cascade) for _ in config.stages if config.masks
    ]
    return MaskRCNN(
        backbone,
        FPN(backbone.feature_info.channels(), channels),
        RPN(channels),
        RoIHeads(box_heads, mask_heads),
        training=training_settings(config),
    )


def training_settings(config: TwoStageConfig) -> DetectorTraining:
    """How the heads of a configuration are trained."""
    cascade = len(config.stages) > 1
    return DetectorTraining(
        rpn=RPNTraining(whole_inside=cascade, box_loss=partial(delta_loss, beta=1 / 9 if cascade else 0.0)),
        stages=tuple(_stage_training(stage, config.box_loss, cascade) for stage in config.stages),
        limits=ProposalLimits(per_level=2000, per_image=config.train_proposals),
    )


def _stage_training(stage: StageConfig, box_loss: BoxLossName, cascade: bool) -> StageTraining:
    assigner = Assigner(positive=stage.iou, negative=stage.iou, least=None if cascade else stage.iou)
    return StageTraining(assigner, _BOX_LOSSES[box_loss], stage.weight)
