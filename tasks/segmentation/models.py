"""Segmentors by name: `create_segmentor`."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any

from internimage.backbone import InternImageFeatures
from internimage.models import variant_arguments
from internimage.tasks.named_models import build_from, choose_source
from internimage.tasks.segmentation.configs import SegmentorConfig, get_config
from internimage.tasks.segmentation.mask2former import Mask2FormerHead
from internimage.tasks.segmentation.pixel_head import FCNHead, PixelHead
from internimage.tasks.segmentation.segformer import SegFormerHead
from internimage.tasks.segmentation.segmentor import Segmentor
from internimage.tasks.segmentation.upernet import UperNetHead
from internimage.variants import VARIANTS

_HEADS: dict[str, Callable[..., PixelHead | Mask2FormerHead]] = {
    "upernet": UperNetHead,
    "segformer": SegFormerHead,
    "mask2former": Mask2FormerHead,
}


def create_segmentor(
    name: str,
    pretrained: bool = False,
    *,
    checkpoint: str | PathLike[str] | None = None,
    num_classes: int | None = None,
    **overrides: Any,
) -> Segmentor:
    """Build a segmentor, an official one with its weights if wanted.

    The official UperNets and SegFormer heads for Cityscapes and Mapillary Vistas classify into 150 classes, of which
    only the first 19 occur. Here they have these 19; `num_classes=150` keeps them all.

    Args:
        name: a name of `list_segmentors()`.
        pretrained: load the official weights, downloaded on first use. A `num_classes` that differs from theirs gets a
            fresh classifier on top of them.
        checkpoint: load this instead: whatever `internimage.load_checkpoint` reads.
        num_classes: of the scores; None: as many as the data set has. The small ones, which belong to no data set, need
            it.
        **overrides: arguments of `InternImage` that replace the variant's. The drop path rate is 0 unless given here;
            `get_config(name).drop_path_rate` is the official one.

    Raises:
        ValueError: an unknown name (the error lists the closest), one without released weights, `pretrained` together
            with `checkpoint`, or no `num_classes` where it is needed.
    """
    config = get_config(name)
    source = choose_source(
        "create_segmentor", name, pretrained=pretrained, checkpoint=checkpoint, released=config.checkpoint
    )
    if num_classes is None and not config.num_labels:
        raise ValueError(f"create_segmentor: {name} belongs to no data set; give num_classes")
    wanted = config.num_labels if num_classes is None else num_classes
    of_file = wanted if checkpoint or wanted == config.num_classes else config.num_labels
    cut = of_file == config.num_labels < config.num_classes
    return build_from(
        source,
        lambda classes: build_segmentor(config, classes, **overrides),
        wanted,
        of_file=of_file,
        classifier="first" if cut else "same",
    )


def build_segmentor(config: SegmentorConfig, num_classes: int, **overrides: Any) -> Segmentor:
    """The model of a configuration, freshly initialised; see `create_segmentor`."""
    arguments = variant_arguments(VARIANTS[config.variant], dense=True) | overrides
    return on_backbone(InternImageFeatures(**arguments), config, num_classes)


def on_backbone(backbone: Any, config: SegmentorConfig, num_classes: int) -> Segmentor:
    """The heads of a configuration on any backbone.

    Args:
        backbone: image -> maps [N, C_i, H_i, W_i], finest first; `feature_info.channels()` tells C_i, as timm's do.
        config: of the heads.
        num_classes: of the scores.
    """
    channels = backbone.feature_info.channels()
    head = _HEADS[config.method](channels, num_classes, **config.head)
    auxiliary_head = (
        FCNHead(channels, num_classes, channels=config.auxiliary_channels) if config.method == "upernet" else None
    )
    return Segmentor(backbone, head, auxiliary_head)
