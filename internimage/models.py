"""Models by name: `create_model` and `list_models`, as in timm."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from os import PathLike
from typing import Any

import torch

from internimage.backbone import InternImage, InternImageFeatures
from internimage.checkpoint import load_checkpoint
from internimage.released import ReleasedCheckpoint, find, get
from internimage.variants import VARIANTS, Variant

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def create_model(
    name: str,
    pretrained: bool = False,
    *,
    checkpoint: str | PathLike[str] | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] = (0, 1, 2, 3),
    **overrides: Any,
) -> InternImage:
    """Build a variant, with its official weights if wanted.

    Args:
        name: a name of `list_models()`, such as "internimage_t"; with `pretrained` also one of
            `list_models(pretrained=True)`, such as "internimage_t.in1k_224", which says which weights.
        pretrained: load the official weights, downloaded on first use. A `num_classes` that differs from theirs gets a
            fresh classifier on top of them.
        checkpoint: load this instead: whatever `load_checkpoint` reads.
        features_only: return a backbone for dense tasks, image -> list of stage maps [N, C, H, W].
        out_indices: with `features_only`, the stages wanted; later ones are left out.
        **overrides: arguments of `InternImage` that replace the variant's. The drop path rate is 0 unless given here.

    Raises:
        ValueError: an unknown name (the error lists the closest), or `pretrained` together with `checkpoint`.
    """
    if pretrained and checkpoint is not None:
        raise ValueError("create_model: give either pretrained=True or checkpoint, not both")
    if "." in name and not pretrained:
        raise ValueError(
            f"create_model: {name!r} names official weights; add pretrained=True to load them, or leave the tag away: "
            f"{name.partition('.')[0]!r}"
        )
    variant = _find_variant(name.partition(".")[0])
    released = get(name) if pretrained else None
    arguments = variant_arguments(variant) | overrides
    if features_only:
        arguments["head"] = None
    if released is not None:
        arguments["num_classes"] = released.num_classes
        if released.dataset == "iNaturalist 2018" and arguments["head"] == variant.head:
            arguments["head"] = "metadata"
    source = released or checkpoint
    device = torch.get_default_device()
    model: InternImage
    with torch.device(device if source is None else "meta"):  # no need to draw numbers that the file replaces
        model = InternImageFeatures(out_indices=out_indices, **arguments) if features_only else InternImage(**arguments)
    if source is not None:
        load_checkpoint(model, source)
        model.to(device)
    if features_only:
        model.prune_intermediate_layers(out_indices)
    elif arguments["head"] is not None and overrides.get("num_classes", model.num_classes) != model.num_classes:
        model.reset_classifier(overrides["num_classes"])
    model.pretrained_cfg = _pretrained_config(name, variant, model, released)
    return model


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Names for `create_model`, smallest model first.

    Args:
        pattern: a shell wildcard, such as "internimage_[tsb]" or "*22k*".
        pretrained: names of official weights instead of those of variants.
    """
    names = [row.name for row in find(task="classification")] if pretrained else list(VARIANTS)
    return [name for name in names if fnmatchcase(name, pattern)]


def variant_arguments(variant: Variant, *, dense: bool = False) -> dict[str, Any]:
    """The arguments of `InternImage` for a variant.

    Args:
        variant: a row of `VARIANTS`.
        dense: as in the official detectors and segmentors: their layer scale, and no head.
    """
    return {
        "channels": variant.channels,
        "depths": variant.depths,
        "groups": variant.groups,
        "offset_scale": variant.offset_scale,
        "layer_scale": variant.dense_layer_scale if dense else variant.layer_scale,
        "post_norm": variant.post_norm,
        "res_post_norm": variant.res_post_norm,
        "dw_kernel_size": variant.dw_kernel_size,
        "center_feature_scale": variant.center_feature_scale,
        "level2_post_norm_block_ids": variant.level2_post_norm_block_ids,
        "head": None if dense else variant.head,
    }


def _find_variant(name: str) -> Variant:
    if name not in VARIANTS:
        close = difflib.get_close_matches(name, VARIANTS, n=3) or list(VARIANTS)
        raise ValueError(f"create_model: unknown model {name!r}; did you mean {' or '.join(close)}?")
    return VARIANTS[name]


def _pretrained_config(
    name: str, variant: Variant, model: InternImage, released: ReleasedCheckpoint | None
) -> dict[str, Any]:
    height, width = released.resolution if released and released.resolution else (variant.image_size,) * 2
    return {
        "architecture": name.partition(".")[0],
        "tag": released.name.partition(".")[2] if released else "",
        "url": released.url if released else "",
        "num_classes": model.num_classes,
        "input_size": (model.in_chans, height, width),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "first_conv": "stem.conv1",
        "classifier": "head.classifier",
    }
