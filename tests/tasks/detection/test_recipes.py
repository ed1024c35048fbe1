"""The recipes are the official ones: the published table, restated."""

from dataclasses import replace

import pytest

from internimage.released import get
from internimage.tasks.detection.augment import Augmentation, Crop, Scales
from internimage.tasks.detection.configs import CONFIGS
from internimage.tasks.detection.recipes import RECIPES
from internimage.tasks.training.schedule import schedule_of

pytestmark = pytest.mark.once

CROP = Crop(Scales((400, 500, 600), 1333), (384, 600), empty=True, probability=0.5)
DETR_CROP = Crop(Scales((400, 500, 600), 4200), (384, 600), empty=False, probability=0.5)
SINGLE_SCALE = Augmentation(Scales((800,), 1333), None, flip=0.5)
MULTI_SCALE_CROP = Augmentation(Scales(tuple(range(480, 801, 32)), 1333), CROP, flip=0.5)

# learning rate, weight decay, layer decay, batch, epochs, drops, augmentation, decay of the averaged weights
ONE, THREE = (12, (8, 11), SINGLE_SCALE), (36, (27, 33), MULTI_SCALE_CROP)
TABLE = {
    **{f"mask_rcnn_internimage_{x}_fpn_1x_coco": (1e-4, 0.05, None, 16, *ONE, None) for x in "tsb"},
    **{f"mask_rcnn_internimage_{x}_fpn_3x_coco": (1e-4, 0.05, None, 16, *THREE, None) for x in "tsb"},
    **{f"cascade_internimage_{x}_fpn_1x_coco": (1e-4, 0.05, 0.94, 16, *ONE, None) for x in ("l", "xl")},
    **{f"cascade_internimage_{x}_fpn_3x_coco": (2e-4, 0.05, 0.90, 64, *THREE, 0.9999) for x in ("l", "xl")},
    "cascade_internimage_xl_fpn_3x_crowd_human": (1e-4, 1e-4, 0.94, 128, *THREE, None),
}
# learning rate, weight decay, layer decay, epochs or steps, short sides, long side, factors of the learning rates of
# backbone and offsets, layout of the data
CROPPED = (12, range(480, 801, 32), 1333)
TUNED = (1e-4, 1e-4, 0.94)
OBJECTS365 = "dino_4scale_{}internimage_{}_objects365_{}"
DINO_TABLE = {
    "dino_4scale_internimage_t_1x_coco_layer_wise_lr": (1e-4, 1e-4, 0.90, *CROPPED, 1, 1, "coco"),
    "dino_4scale_internimage_l_1x_coco_layer_wise_lr": (1e-4, 1e-4, 0.90, *CROPPED, 1, 1, "coco"),
    "dino_4scale_internimage_l_1x_coco_0.1x_backbone_lr": (1e-4, 0.05, None, *CROPPED, 0.1, 1, "coco"),
    **{
        OBJECTS365.format(kind, letter, "coco_ss"): (*TUNED, 20_000, range(600, 1801), 2000, 1, 1e-3, "coco")
        for kind, letter in (("", "h"), ("", "g"), ("cb", "h"))
    },
    **{
        OBJECTS365.format("cb", "h", name): (rate, *TUNED[1:], steps, range(600, 1201), 2000, 1, 1e-3, layout)
        for name, rate, steps, layout in (
            ("lvis_val_ss", 1e-4, 80_000, "lvis"),
            ("lvis_minival_ss", 1e-4, 80_000, "lvis_minival"),
            ("openimages_ss", 1e-4, 100_000, "open_images"),
            ("voc07", 5e-5, 20_000, "voc"),
            ("voc12", 5e-5, 20_000, "voc2012_test"),
        )
    },
}


def test_every_official_configuration_has_its_recipe():
    assert {name for name, config in CONFIGS.items() if config.dataset} == {*TABLE, *DINO_TABLE}


@pytest.mark.parametrize("name", TABLE)
def test_values_are_the_official_ones(name):
    recipe = RECIPES[name]
    rate, weight_decay, layer_decay, batch, epochs, drops, augmentation, ema = TABLE[name]
    check_common(name, recipe, rate)
    assert (recipe.learning_rate, recipe.weight_decay, recipe.layer_decay) == (rate, weight_decay, layer_decay)
    assert (recipe.batch_size, recipe.epochs, recipe.steps, recipe.lr_drops) == (batch, epochs, None, drops)
    assert (recipe.ema_decay, recipe.clip_norm, recipe.by_class) == (ema, None, False)
    assert (recipe.backbone_lr, recipe.offset_lr, recipe.grad_checkpointing) == (1, 1, False)
    assert recipe.augmentation() == augmentation
    assert recipe.test_bounds == (1333, 800)
    assert recipe.layout == ("crowd_human" if name.endswith("crowd_human") else "coco")
    assert (get(recipe.init).variant, recipe.init_head) == (recipe.config.variant, "none")
    assert schedule_of(recipe, 1000)(drops[0] * 1000, rate) == pytest.approx(0.1 * rate)


@pytest.mark.parametrize("name", DINO_TABLE)
def test_dinos_values_are_the_official_ones(name):
    recipe, tuned = RECIPES[name], "_objects365_" in name
    rate, weight_decay, layer_decay, length, short, long, backbone, offsets, layout = DINO_TABLE[name]
    check_common(name, recipe, rate)
    assert (recipe.learning_rate, recipe.weight_decay, recipe.layer_decay) == (rate, weight_decay, layer_decay)
    assert (recipe.epochs, recipe.steps) == ((None, length) if tuned else (length, None))
    # Tuned, batch and checkpointing are our choice.
    assert (recipe.batch_size, recipe.ema_decay, recipe.clip_norm) == (16, None, 0.1)
    assert recipe.grad_checkpointing == (tuned or "_t_" in name)
    assert (recipe.backbone_lr, recipe.offset_lr) == (backbone, offsets)
    assert recipe.augmentation() == Augmentation(Scales(tuple(short), long), None if tuned else DETR_CROP, flip=0.5)
    assert recipe.test_bounds == ((2000, 1000) if tuned else (1333, 800))
    assert recipe.by_class == (name.endswith("openimages_ss"))
    assert recipe.layout == layout
    assert recipe.lr_drops == (() if tuned else (11,))
    late = recipe.steps - 1 if tuned else 11_000
    assert schedule_of(recipe, 1000)(late, rate) == pytest.approx(rate if tuned else 0.1 * rate)


@pytest.mark.parametrize("name", DINO_TABLE)
def test_dinos_first_weights_fit(name):
    recipe = RECIPES[name]
    first = get(recipe.init)
    if not recipe.config.composite:
        assert (first.variant, recipe.init_head) == (recipe.config.variant, "none")
        return
    assert (first.variant, first.dataset) == (f"cb_{recipe.config.variant}", "Objects365")
    assert first.num_classes == (20 if recipe.config.dataset == "Pascal VOC" else 80)
    assert recipe.init_head == ("same" if first.num_classes == recipe.config.num_classes else "fresh")


def check_common(name, recipe, rate):
    """What all official configurations share."""
    assert recipe.model == name
    assert (recipe.schedule, recipe.warmup_steps, recipe.warmup_epochs) == ("step", 500, 0)
    assert (recipe.accumulation, recipe.lr_batch, recipe.min_lr, recipe.beta2) == (1, None, 0, 0.999)
    assert (recipe.precision, recipe.sync_batch_norm, recipe.frozen_stages) == ("float32", True, ())
    assert (recipe.drop_path_rate, recipe.detections, recipe.keep_empty, recipe.grouped) == (None, None, False, True)
    schedule = schedule_of(recipe, 1000)
    assert schedule(0, rate) == pytest.approx(1e-3 * rate)
    assert schedule(250, rate) == pytest.approx(0.5005 * rate)
    assert schedule(500, rate) == rate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"short_sides": ()}, "--short-sides must be at least 32 each"),
        ({"long_side": 100}, "--long-side must be at least --short-sides"),
        ({"crop": (1,)}, "--crop must be two sides, or nothing"),
        ({"test_scale": (5,)}, "--test-scale must be two sides of at least 1 pixel, or nothing"),
        ({"test_scale": (0, 5)}, "--test-scale must be two sides of at least 1 pixel, or nothing"),
        ({"crop_share": 2.0}, "--crop-share must be from 0 to 1"),
        ({"backbone_lr": -1.0}, "--backbone-lr must be at least 0"),
        ({"detections": 0}, "--detections must be at least 1"),
        ({"lr_drops": (3,)}, "--lr-drops must be left away unless --schedule is step"),
        ({"model": "mask_rcnn_internimage_q"}, "no detector is called"),
    ],
)
def test_a_value_out_of_its_range_is_told(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(RECIPES["quick"], **changes)
