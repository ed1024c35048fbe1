"""The recipes of segmentation. Values without a remark are those of the official release.

Names are those of the official configurations, which also say how a model is tested. "our choice" marks what the
release leaves undetermined.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from internimage.tasks.resizing import Size
from internimage.tasks.segmentation.augment import Augmentation
from internimage.tasks.segmentation.configs import CONFIGS, SegmentorConfig, get_config
from internimage.tasks.segmentation.views import Views
from internimage.tasks.training.recipe import Recipe, value


@dataclass(frozen=True)
class SegmentationRecipe(Recipe):
    """The values of segmentation.

    Raises:
        ValueError: a value out of its range.
    """

    model: str = value(help="a name of internimage.tasks.segmentation.list_segmentors()")
    init_head: Literal["none", "same", "first", "fresh"] = value(
        "none", help="what --init gives the head: nothing, all, all with the first of its classes, or all but those"
    )
    layout: str | None = value(None, help="how --data is laid out; none: seen from what it holds")
    crop: tuple[int, ...] = value((512, 512), help="height and width of the training images, pixels")
    scale: tuple[int, ...] = value(
        (), help="long and short side that pictures are fitted to before RATIO, pixels; nothing: their own"
    )
    ratio: tuple[float, ...] = value((0.5, 2.0), help="least and largest factor of the random resize")
    largest_class: float = value(0.75, help="share of a crop above which a class makes it be drawn again")
    flip: float = value(0.5, help="probability of a horizontal flip")
    distortion: bool = value(True, help="photometric distortion")
    points: int = value(12544, help="at which Mask2Former compares masks")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("points", self.points >= 1, "at least 1")
        self._check("crop", len(self.crop) == 2 and min(self.crop) >= 32, "two sides of at least 32 pixels")
        self._check("scale", len(self.scale) in (0, 2), "two sides, or nothing")
        self._check("ratio", len(self.ratio) == 2, "two numbers")
        get_config(self.model)
        self.augmentation()

    @property
    def config(self) -> SegmentorConfig:
        """Of the model."""
        return get_config(self.model)

    def augmentation(self) -> Augmentation:
        """What happens to a training image."""
        height, width = self.crop
        least, largest = self.ratio
        return Augmentation(
            crop=(height, width),
            bounds=_pair(self.scale),
            ratio=(least, largest),
            largest_class=self.largest_class,
            flip=self.flip,
            distortion=self.distortion,
        )

    def views(self) -> Views:
        """What the model sees of a picture while training evaluates it: one view, at the official test's scale."""
        return Views(self.config.test_scale, divisor=self.config.divisor)


def _pair(sides: tuple[int, ...]) -> Size | None:
    return (sides[0], sides[1]) if sides else None


_COMMON: dict[str, Any] = {
    "batch_size": 16,
    "schedule": "polynomial",
    "warmup_steps": 1500,
    "clip_norm": None,
    "sync_batch_norm": True,
}
_CLIPPED = {"clip_norm": 0.1}
_SHRUNK = {"ratio": (0.5, 1.0)}
# Learning rate, and its factor from layer to layer, by backbone.
_BY_VARIANT: dict[str, dict[str, Any]] = {
    **{f"internimage_{letter}": {"learning_rate": 6e-5} for letter in "tsb"},
    **{f"internimage_{name}": {"learning_rate": 2e-5, "layer_decay": 0.94} for name in ("l", "xl")},
    **{
        f"internimage_{letter}": {"learning_rate": 2e-5, "layer_decay": 0.95, "grad_checkpointing": True}
        for letter in "hg"
    },
}
# The release's pre-trained backbones. Which of them G starts from is not published: our choice.
_BACKBONES = {
    **{f"internimage_{letter}": f"internimage_{letter}" for letter in "tsb"},
    **{f"internimage_{name}": f"internimage_{name}.22k_384" for name in ("l", "xl")},
    "internimage_h": "internimage_h.jointto22k_384",
    "internimage_g": "internimage_g.jointto22k_384",
}
_LAYOUTS = {
    "ADE20K": "ade20k",
    "Cityscapes": "cityscapes",
    "Mapillary Vistas": "mapillary19",
    "COCO-Stuff-164K": "cocostuff164k",
    "COCO-Stuff-10K": "cocostuff10k",
    "Pascal Context 59": "pascal_context59",
    "NYU Depth v2": "nyu40",
}
# Where pictures are fitted to other bounds in training than in the test.
_TRAINING_SCALES = {"NYU Depth v2": (2048, 512), "Pascal Context 59": (520, 520)}
# Where a configuration differs from its backbone's and data set's rows, by the end of its name.
_EXCEPTIONS: dict[str, dict[str, Any]] = {
    # Both UperNets name the SegFormer head's file, of which they can take no more than the backbone.
    **{
        f"upernet_internimage_{name}_512x1024_160k_mapillary2cityscapes": {
            "init": f"segformer_internimage_{name}_512x1024_80k_mapillary"
        }
        for name in ("l", "xl")
    },
    **{
        f"segformer_internimage_{name}_512x1024_160k_mapillary2cityscapes": {
            "init": f"segformer_internimage_{name}_512x1024_80k_mapillary",
            "init_head": "first",
        }
        for name in ("l", "xl")
    },
    "mask2former_internimage_h_1024x1024_80k_mapillary2cityscapes": {
        "init": "mask2former_internimage_h_896x896_80k_mapillary",
        "init_head": "same",
        "learning_rate": 1e-5,
        **_CLIPPED,
    },
    "mask2former_internimage_h_896x896_80k_mapillary": {"batch_size": 32, **_CLIPPED},
    "mask2former_internimage_h_896_80k_cocostuff2ade20k_ss": {
        "init": "mask2former_internimage_h_896_80k_cocostuff164k",
        "init_head": "fresh",
        "learning_rate": 1e-5,
        **_CLIPPED,
    },
    "mask2former_internimage_h_512_40k_cocostuff164k_to_10k": {
        "init": "mask2former_internimage_h_896_80k_cocostuff164k",
        "init_head": "same",
        "learning_rate": 1e-5,
    },
}


def _official_recipes() -> Iterator[tuple[str, SegmentationRecipe]]:
    for name, config in CONFIGS.items():
        if not config.dataset or config.mirrored:  # the latter is another test of the same training
            continue
        steps = 1000 * int(name.split("k_")[0].rpartition("_")[2])
        large = config.variant not in ("internimage_t", "internimage_s", "internimage_b")
        values: dict[str, Any] = {
            "model": name,
            "init": _BACKBONES[config.variant],
            "layout": "cityscapes_extra" if name.endswith("mapillary2cityscapes") else _LAYOUTS[config.dataset],
            "steps": steps,
            "eval_steps": steps // 10,
            "crop": config.crop,
            "scale": _TRAINING_SCALES.get(config.dataset, config.test_scale),
            **_COMMON,
            **_BY_VARIANT[config.variant],
            **(_CLIPPED if large and config.method != "mask2former" else {}),
            **(_SHRUNK if config.dataset == "Mapillary Vistas" and config.method != "mask2former" else {}),
            **_EXCEPTIONS.get(name, {}),
        }
        values["warmup_lr"] = 1e-6 * values["learning_rate"]
        yield name, SegmentationRecipe(**values)


# A few hundred images on a small machine, from scratch: our choice.
_SMALL = SegmentationRecipe(
    model="upernet_internimage_femto_small",
    epochs=20,
    warmup_epochs=1,
    batch_size=8,
    learning_rate=1e-3,
    schedule="polynomial",
    poly_power=0.9,
    clip_norm=1.0,
    drop_path_rate=0.05,
    ema_decay=0.99,
    crop=(256, 256),
    workers=1,
    eval_epochs=5,
)

RECIPES: dict[str, SegmentationRecipe] = {
    **dict(_official_recipes()),
    "quick": _SMALL,
    "quick_mask2former": replace(_SMALL, model="mask2former_internimage_femto_small", points=2048),
}
