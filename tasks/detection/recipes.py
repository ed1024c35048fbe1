"""The recipes of detection. Values without a remark are those of the official release.

Names are those of the official configurations, which also say how a model is tested. "our choice" marks what the
release leaves undetermined.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from internimage.tasks.detection.augment import Augmentation, Crop, Scales
from internimage.tasks.detection.configs import CONFIGS, DetectorConfig, DINOConfig, TwoStageConfig, get_config
from internimage.tasks.training.recipe import Recipe, value


@dataclass(frozen=True)
class DetectionRecipe(Recipe):
    """The values of detection.

    Raises:
        ValueError: a value out of its range.
    """

    model: str = value(help="a name of internimage.tasks.detection.list_detectors()")
    layout: str | None = value(None, help="how --data is laid out; none: seen from what it holds")
    short_sides: tuple[int, ...] = value((800,), help="of the training images, pixels; one is drawn for each")
    long_side: int = value(1333, help="that no training image exceeds, pixels")
    crop: tuple[int, ...] = value((), help="least and largest side of crops, pixels; nothing: no image is cropped")
    crop_share: float = value(0.5, help="of the images that are cropped")
    crop_short_sides: tuple[int, ...] = value(
        (400, 500, 600), help="of images before they are cropped, pixels; one is drawn for each"
    )
    crop_long_side: int | None = value(None, help="that they don't exceed, pixels; none: LONG_SIDE")
    empty_crops: bool = value(True, help="crops may show no object")
    flip: float = value(0.5, help="probability of a horizontal flip")
    grouped: bool = value(True, help="images that are computed together are all wide, or all high")
    keep_empty: bool = value(False, help="train on pictures without objects, too")
    init_head: Literal["none", "same", "fresh"] = value(
        "none", help="what --init gives the heads: nothing, all, or all but the classifiers"
    )
    test_scale: tuple[int, ...] = value((), help="long and short side that bound test images, pixels; none: MODEL's")
    detections: int | None = value(None, help="of an image, at most, in evaluation; none: MODEL's")
    by_class: bool = value(False, help="draw a class, then a picture of it, so that rare ones are seen as often")
    backbone_lr: float = value(1.0, help="factor of the learning rates of the backbone")
    offset_lr: float = value(1.0, help="factor of those of DINO's sampling offsets")
    sync_batch_norm: bool = value(True, help="batch statistics over all processes")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("short_sides", len(self.short_sides) > 0 and min(self.short_sides) >= 32, "at least 32 each")
        self._check("long_side", self.long_side >= max(self.short_sides), "at least --short-sides")
        self._check("crop", len(self.crop) in (0, 2), "two sides, or nothing")
        self._check("detections", self.detections is None or self.detections >= 1, "at least 1")
        self._check("crop_share", 0 <= self.crop_share <= 1, "from 0 to 1")
        sides = len(self.test_scale) in (0, 2) and min(self.test_scale, default=1) >= 1
        self._check("test_scale", sides, "two sides of at least 1 pixel, or nothing")
        self._check("backbone_lr", self.backbone_lr >= 0, "at least 0")
        self._check("offset_lr", self.offset_lr >= 0, "at least 0")
        get_config(self.model)
        self.augmentation()

    @property
    def config(self) -> DetectorConfig:
        """Of the model."""
        return get_config(self.model)

    @property
    def test_bounds(self) -> tuple[int, int]:
        """Long and short side that bound test images, pixels."""
        return (self.test_scale[0], self.test_scale[1]) if self.test_scale else self.config.test_scale

    def augmentation(self) -> Augmentation:
        """What happens to a training image."""
        return Augmentation(Scales(self.short_sides, self.long_side), self._crop(), self.flip)

    def _crop(self) -> Crop | None:
        if not self.crop:
            return None
        before = Scales(self.crop_short_sides, self.crop_long_side or self.long_side)
        return Crop(before, (self.crop[0], self.crop[1]), empty=self.empty_crops, probability=self.crop_share)


_COMMON: dict[str, Any] = {
    "learning_rate": 1e-4,
    "batch_size": 16,
    "schedule": "step",
    "warmup_steps": 500,
    "clip_norm": None,
}
_LENGTHS: dict[str, dict[str, Any]] = {
    "1x": {"epochs": 12, "lr_drops": (8, 11)},
    "3x": {
        "epochs": 36,
        "lr_drops": (27, 33),
        "short_sides": tuple(range(480, 801, 32)),
        "crop": (384, 600),
    },
}
_CASCADES: dict[str, dict[str, Any]] = {
    "1x": {"layer_decay": 0.94},
    "3x": {
        "layer_decay": 0.90,
        "learning_rate": 2e-4,
        "batch_size": 64,
        "ema_decay": 0.9999,
        "ema_warmup": 2000,
    },
}
_CROWD_HUMAN: dict[str, Any] = {
    **_LENGTHS["3x"],
    "layout": "crowd_human",
    "weight_decay": 1e-4,
    "layer_decay": 0.94,
    "batch_size": 128,
}
_DINO: dict[str, Any] = {"weight_decay": 1e-4, "layer_decay": 0.90, "clip_norm": 0.1}
_DINO_COCO: dict[str, Any] = {
    **_DINO,
    "layout": "coco",
    "epochs": 12,
    "lr_drops": (11,),
    **{name: _LENGTHS["3x"][name] for name in ("short_sides", "crop")},
    "crop_long_side": 4200,
    "empty_crops": False,
}
# From Objects365, without drops. How many images a step has, and whether activations are kept, is not published: our
# choice.
_DINO_TUNED: dict[str, Any] = {
    **_DINO,
    "layer_decay": 0.94,
    "offset_lr": 1e-3,
    "grad_checkpointing": True,
    "long_side": 2000,
    "short_sides": tuple(range(600, 1201)),
}
_TUNED_ON: dict[str, dict[str, Any]] = {
    "COCO": {"layout": "coco", "steps": 20_000, "short_sides": tuple(range(600, 1801))},
    "LVIS": {"layout": "lvis", "steps": 80_000},
    "OpenImages": {"layout": "open_images", "steps": 100_000, "by_class": True},
    "Pascal VOC": {"layout": "voc", "steps": 20_000, "learning_rate": 5e-5},
}
# Where a configuration differs from its data set's row, by the end of its name.
_EXCEPTIONS: dict[str, dict[str, Any]] = {
    "_0.1x_backbone_lr": {"weight_decay": 0.05, "layer_decay": None, "backbone_lr": 0.1},
    "_lvis_minival_ss": {"layout": "lvis_minival"},
    # Which part of VOC2012 was tested is not published. Its test list is our choice: the others are trained on.
    "_voc12": {"layout": "voc2012_test"},
}
# What training on Objects365 gave, by the data set that it is brought to. The release has CB-InternImage's files alone,
# with the classes of COCO and of Pascal VOC; which file the others began with is our choice.
_OBJECTS365 = "dino_4scale_cbinternimage_h_objects365"
_FIRST_WEIGHTS = {
    "COCO": {"init": f"{_OBJECTS365}_80classes", "init_head": "same"},
    "LVIS": {"init": f"{_OBJECTS365}_80classes", "init_head": "fresh"},
    "OpenImages": {"init": f"{_OBJECTS365}_80classes", "init_head": "fresh"},
    "Pascal VOC": {"init": f"{_OBJECTS365}_20classes", "init_head": "same"},
}


def _official_recipes() -> Iterator[tuple[str, DetectionRecipe]]:
    for name, config in CONFIGS.items():
        if config.dataset:
            values = {**_COMMON, **_official_values(config), "model": name}
            for end, exceptions in _EXCEPTIONS.items():
                values |= exceptions if name.endswith(end) else {}
            values["warmup_lr"] = 1e-3 * values["learning_rate"]
            yield name, DetectionRecipe(**values)


def _official_values(config: DetectorConfig) -> dict[str, Any]:
    # The release's pre-trained backbones.
    backbone = config.variant if config.variant[-2:] in ("_t", "_s", "_b") else f"{config.variant}.22k_384"
    if isinstance(config, DINOConfig):
        if "_objects365_" not in config.name:
            checkpointing = {"grad_checkpointing": config.variant == "internimage_t"}
            return {**_DINO_COCO, **checkpointing, "init": backbone}
        first = _FIRST_WEIGHTS[config.dataset] if config.composite else {"init": f"{config.variant}.jointto22k_384"}
        return {**_DINO_TUNED, **_TUNED_ON[config.dataset], **first}
    if config.dataset == "CrowdHuman":
        return {**_CROWD_HUMAN, "init": backbone}
    length = "1x" if "_1x_" in config.name else "3x"
    cascade = _CASCADES[length] if isinstance(config, TwoStageConfig) and len(config.stages) > 1 else {}
    return {"layout": "coco", **_LENGTHS[length], **cascade, "init": backbone}


# A few hundred images on a small machine, from scratch: our choice.
_SMALL = DetectionRecipe(
    model="faster_rcnn_internimage_femto_small",
    epochs=30,
    warmup_steps=100,
    batch_size=4,
    learning_rate=1e-3,
    schedule="cosine",
    clip_norm=1.0,
    drop_path_rate=0.05,
    ema_decay=0.995,
    short_sides=(192, 224, 256, 288),
    long_side=384,
    test_scale=(384, 256),
    workers=1,
    eval_epochs=5,
)

# Training on Objects365, which the release leaves out: our choice.
_PRETRAINING = DetectionRecipe(
    model="dino_4scale_internimage_h_objects365_coco_ss",
    init="internimage_h.jointto22k_384",
    layout="objects365",
    epochs=12,
    **{**_COMMON, **_DINO_TUNED, "batch_size": 64, "lr_drops": (10,), "warmup_lr": 1e-7},
)

RECIPES: dict[str, DetectionRecipe] = {
    **dict(_official_recipes()),
    "objects365_dino_h": _PRETRAINING,
    "quick": _SMALL,
    "quick_dino": replace(_SMALL, model="dino_internimage_femto_small", learning_rate=5e-4, clip_norm=0.1),
    "quick_masks": replace(_SMALL, model="mask_rcnn_internimage_femto_small"),
}
