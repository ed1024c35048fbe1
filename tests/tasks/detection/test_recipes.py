"""The recipes are the official ones: the published table, restated."""

from dataclasses import replace

import pytest

from internimage.released import get
from internimage.tasks.detection.augment import DETR_CROP, MULTI_SCALE_CROP, SINGLE_SCALE
from internimage.tasks.detection.configs import CONFIGS
from internimage.tasks.detection.layouts import LAYOUTS
from internimage.tasks.detection.recipes import RECIPES
from internimage.tasks.training.schedule import schedule_of

pytestmark = pytest.mark.once

# learning rate, weight decay, layer decay, batch, epochs, drops, cropped, decay of the averaged weights
ONE, THREE = (12, (8, 11), False), (36, (27, 33), True)
TABLE = {
    **{f"mask_rcnn_internimage_{x}_fpn_1x_coco": (1e-4, 0.05, None, 16, *ONE, None) for x in "tsb"},
    **{f"mask_rcnn_internimage_{x}_fpn_3x_coco": (1e-4, 0.05, None, 16, *THREE, None) for x in "tsb"},
    **{f"cascade_internimage_{x}_fpn_1x_coco": (1e-4, 0.05, 0.94, 16, *ONE, None) for x in ("l", "xl")},
    **{f"cascade_internimage_{x}_fpn_3x_coco": (2e-4, 0.05, 0.90, 64, *THREE, 0.9999) for x in ("l", "xl")},
    "cascade_internimage_xl_fpn_3x_crowd_human": (1e-4, 1e-4, 0.94, 128, *THREE, None),
}
# learning rate, weight decay, layer decay, epochs or steps, least and most short side, long side, and the factors of
# the learning rates of backbone and offsets
CROPPED = (12, 480, 800, 1333)
TUNED = (1e-4, 1e-4, 0.94)
OBJECTS365 = "dino_4scale_{}internimage_{}_objects365_{}"
DINO_TABLE = {
    "dino_4scale_internimage_t_1x_coco_layer_wise_lr": (1e-4, 1e-4, 0.90, *CROPPED, 1, 1),
    "dino_4scale_internimage_l_1x_coco_layer_wise_lr": (1e-4, 1e-4, 0.90, *CROPPED, 1, 1),
    "dino_4scale_internimage_l_1x_coco_0.1x_backbone_lr": (1e-4, 0.05, None, *CROPPED, 0.1, 1),
    **{
        OBJECTS365.format(kind, letter, "coco_ss"): (*TUNED, 20_000, 600, 1800, 2000, 1, 1e-3)
        for kind, letter in (("", "h"), ("", "g"), ("cb", "h"))
    },
    **{
        OBJECTS365.format("cb", "h", name): (rate, *TUNED[1:], steps, 600, 1200, 2000, 1, 1e-3)
        for name, rate, steps in (
            ("lvis_val_ss", 1e-4, 80_000),
            ("lvis_minival_ss", 1e-4, 80_000),
            ("openimages_ss", 1e-4, 100_000),
            ("voc07", 5e-5, 20_000),
            ("voc12", 5e-5, 20_000),
        )
    },
}


def test_every_official_configuration_has_its_recipe():
    assert {name for name, config in CONFIGS.items() if config.dataset} == {*TABLE, *DINO_TABLE}


@pytest.mark.parametrize("name", TABLE)
def test_values_are_the_official_ones(name):
    recipe = RECIPES[name]
    rate, weight_decay, layer_decay, batch, epochs, drops, cropped, ema = TABLE[name]
    assert (recipe.model, recipe.learning_rate, recipe.weight_decay) == (name, rate, weight_decay)
    assert (recipe.layer_decay, recipe.batch_size, recipe.epochs) == (layer_decay, batch, epochs)
    assert (recipe.ema_decay, recipe.clip_norm, recipe.lr_drops) == (ema, None, drops)
    expected = MULTI_SCALE_CROP if cropped else SINGLE_SCALE
    found = recipe.augmentation()
    assert tuple(found.scales.short) == tuple(expected.scales.short)
    assert found == replace(expected, scales=found.scales, crop=found.crop)
    assert (found.crop is None) == (expected.crop is None)
    if found.crop is not None and expected.crop is not None:
        assert (found.crop.sides, found.crop.probability, found.crop.empty) == ((384, 600), 0.5, True)
        assert (tuple(found.crop.scales.short), found.crop.scales.long) == ((400, 500, 600), 1333)
    assert recipe.test_bounds == (1333, 800)
    assert recipe.layout in LAYOUTS
    assert get(recipe.init).variant == recipe.config.variant
    schedule = schedule_of(recipe, 1000)
    assert schedule(0, rate) == pytest.approx(1e-3 * rate)
    assert schedule(500, rate) == rate
    assert schedule(drops[0] * 1000, rate) == pytest.approx(0.1 * rate)


@pytest.mark.parametrize("name", DINO_TABLE)
def test_dinos_values_are_the_official_ones(name):
    recipe = RECIPES[name]
    rate, weight_decay, layer_decay, length, least, most, long, backbone, offsets = DINO_TABLE[name]
    assert (recipe.learning_rate, recipe.weight_decay, recipe.layer_decay) == (rate, weight_decay, layer_decay)
    assert (recipe.epochs or recipe.steps, recipe.clip_norm) == (length, 0.1)
    assert (recipe.backbone_lr, recipe.offset_lr) == (backbone, offsets)
    assert (min(recipe.short_sides), max(recipe.short_sides), recipe.long_side) == (least, most, long)
    assert recipe.by_class == (name.endswith("openimages_ss"))
    assert recipe.augmentation() == replace(
        DETR_CROP if recipe.epochs else recipe.augmentation(), scales=recipe.augmentation().scales
    )
    schedule = schedule_of(recipe, 1000)
    late = 11_000 if recipe.epochs else recipe.steps - 1
    assert schedule(late, rate) == pytest.approx(0.1 * rate if recipe.epochs else rate)
    assert recipe.layout in LAYOUTS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"short_sides": ()}, "--short-sides must be at least 32 each"),
        ({"long_side": 100}, "--long-side must be at least --short-sides"),
        ({"crop": (1,)}, "--crop must be two sides, or nothing"),
        ({"test_scale": (5,)}, "--test-scale must be two sides, or nothing"),
        ({"detections": 0}, "--detections must be at least 1"),
        ({"lr_drops": (3,)}, "--lr-drops must be left away unless --schedule is step"),
        ({"model": "mask_rcnn_internimage_q"}, "no detector is called"),
    ],
)
def test_a_value_out_of_its_range_is_told(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(RECIPES["quick"], **changes)
