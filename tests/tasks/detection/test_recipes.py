"""The recipes are the official ones: the published table, restated."""

from dataclasses import replace

import pytest

from internimage.released import get
from internimage.tasks.detection.augment import MULTI_SCALE_CROP, SINGLE_SCALE
from internimage.tasks.detection.configs import CONFIGS
from internimage.tasks.detection.layouts import LAYOUTS
from internimage.tasks.detection.recipes import RECIPES
from internimage.tasks.training.schedule import schedule_of

pytestmark = pytest.mark.any_torch

# learning rate, weight decay, layer decay, batch, epochs, drops, cropped, decay of the averaged weights
ONE, THREE = (12, (8, 11), False), (36, (27, 33), True)
TABLE = {
    **{f"mask_rcnn_internimage_{x}_fpn_1x_coco": (1e-4, 0.05, None, 16, *ONE, None) for x in "tsb"},
    **{f"mask_rcnn_internimage_{x}_fpn_3x_coco": (1e-4, 0.05, None, 16, *THREE, None) for x in "tsb"},
    **{f"cascade_internimage_{x}_fpn_1x_coco": (1e-4, 0.05, 0.94, 16, *ONE, None) for x in ("l", "xl")},
    **{f"cascade_internimage_{x}_fpn_3x_coco": (2e-4, 0.05, 0.90, 64, *THREE, 0.9999) for x in ("l", "xl")},
    "cascade_internimage_xl_fpn_3x_crowd_human": (1e-4, 1e-4, 0.94, 128, *THREE, None),
}


def test_every_official_configuration_has_its_recipe():
    assert {name for name, config in CONFIGS.items() if config.dataset} == set(TABLE)


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
