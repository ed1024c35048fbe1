"""The recipes are the official ones: the published table, restated."""

from dataclasses import replace

import pytest

from internimage.released import get
from internimage.tasks.segmentation.configs import CONFIGS
from internimage.tasks.segmentation.datasets import LAYOUTS
from internimage.tasks.segmentation.recipes import RECIPES
from internimage.tasks.training.schedule import schedule_of

pytestmark = pytest.mark.once

# learning rate, layer decay, crop, batch, thousands of steps, clip, scale, least and largest ratio
TABLE = {
    **{
        f"upernet_internimage_{letter}_512_160k_ade20k": (6e-5, None, (512, 512), 16, 160, None, (2048, 512), (0.5, 2))
        for letter in "tsb"
    },
    **{
        f"upernet_internimage_{name}_640_160k_ade20k": (2e-5, 0.94, (640, 640), 16, 160, 0.1, (2560, 640), (0.5, 2))
        for name in ("l", "xl")
    },
    **{
        f"upernet_internimage_{letter}_896_160k_ade20k": (2e-5, 0.95, (896, 896), 16, 160, 0.1, (3584, 896), (0.5, 2))
        for letter in "hg"
    },
    **{
        f"upernet_internimage_{letter}_512x1024_160k_cityscapes": (
            *(6e-5, None, (512, 1024), 16, 160, None),
            *((2048, 1024), (0.5, 2)),
        )
        for letter in "tsb"
    },
    **{
        f"upernet_internimage_{name}_512x1024_160k_cityscapes": (
            *(2e-5, 0.94, (512, 1024), 16, 160, 0.1),
            *((2048, 1024), (0.5, 2)),
        )
        for name in ("l", "xl")
    },
    **{
        f"{method}_internimage_{name}_512x1024_{steps}k_{data}": (
            *(2e-5, 0.94, (512, 1024), 16, steps, 0.1),
            *((2048, 1024), ratio),
        )
        for method in ("upernet", "segformer")
        for name in ("l", "xl")
        for steps, data, ratio in ((80, "mapillary", (0.5, 1)), (160, "mapillary2cityscapes", (0.5, 2)))
    },
    "mask2former_internimage_h_896_80k_cocostuff2ade20k_ss": (
        *(1e-5, 0.95, (896, 896), 16, 80, 0.1),
        *((3584, 896), (0.5, 2)),
    ),
    "mask2former_internimage_h_896_80k_cocostuff164k": (
        *(2e-5, 0.95, (896, 896), 16, 80, None),
        *((3584, 896), (0.5, 2)),
    ),
    "mask2former_internimage_h_512_40k_cocostuff164k_to_10k": (
        *(1e-5, 0.95, (512, 512), 16, 40, None),
        *((2048, 512), (0.5, 2)),
    ),
    "mask2former_internimage_h_480_40k_pascal_context_59": (
        *(2e-5, 0.95, (480, 480), 16, 40, None),
        *((520, 520), (0.5, 2)),
    ),
    "mask2former_internimage_h_480_40k_nyu": (2e-5, 0.95, (480, 480), 16, 40, None, (2048, 512), (0.5, 2)),
    "mask2former_internimage_h_896x896_80k_mapillary": (
        *(2e-5, 0.95, (896, 896), 32, 80, 0.1),
        *((2048, 1024), (0.5, 2)),
    ),
    "mask2former_internimage_h_1024x1024_80k_mapillary2cityscapes": (
        *(1e-5, 0.95, (1024, 1024), 16, 80, 0.1),
        *((2048, 1024), (0.5, 2)),
    ),
}


def test_every_official_configuration_has_a_recipe():
    official = {name for name, config in CONFIGS.items() if config.dataset and not name.endswith("_ms")}
    assert official == set(TABLE)
    assert {name for name in RECIPES if not name.startswith("quick")} == official


@pytest.mark.parametrize("name", TABLE)
def test_recipes_hold_the_published_values(name):
    recipe = RECIPES[name]
    found = (recipe.learning_rate, recipe.layer_decay, recipe.crop, recipe.batch_size, recipe.steps // 1000)
    assert (*found, recipe.clip_norm, recipe.scale, recipe.ratio) == TABLE[name]
    assert (recipe.weight_decay, recipe.beta2, recipe.flip, recipe.largest_class) == (0.05, 0.999, 0.5, 0.75)
    assert recipe.distortion
    assert recipe.sync_batch_norm
    assert recipe.layout in LAYOUTS


def test_rates_fall_in_a_straight_line_after_a_warm_up_of_1500_steps():
    recipe = RECIPES["upernet_internimage_t_512_160k_ade20k"]
    rate = schedule_of(recipe, steps_per_epoch=1000)
    peak = recipe.learning_rate
    assert rate(0, peak) == pytest.approx(1e-6 * peak, rel=1e-3)
    assert rate(750, peak) == pytest.approx(0.5 * peak * (1 - 750 / 160000), rel=1e-3)
    assert rate(80000, peak) == pytest.approx(peak / 2)
    assert rate(160000, peak) == 0


def test_transfers_start_from_the_published_files():
    starts = {name: (RECIPES[name].init, RECIPES[name].init_head) for name in TABLE}
    assert starts["upernet_internimage_xl_512x1024_160k_mapillary2cityscapes"] == (
        "segformer_internimage_xl_512x1024_80k_mapillary",  # the official configuration names this head's file
        "none",
    )
    assert starts["mask2former_internimage_h_896_80k_cocostuff2ade20k_ss"] == (
        "mask2former_internimage_h_896_80k_cocostuff164k",
        "fresh",
    )
    assert starts["upernet_internimage_t_512_160k_ade20k"] == ("internimage_t", "none")
    for name, (init, _) in starts.items():
        assert get(init).variant == RECIPES[name].config.variant


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop": (16, 64)}, "--crop must be two sides of at least 32 pixels"),
        ({"scale": (512,)}, "--scale must be two sides, or nothing"),
        ({"ratio": (2.0, 0.5)}, "ratio must be"),
        ({"model": "upernet_internimage_q"}, "no segmentor is called"),
        ({"points": 0}, "--points must be at least 1"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        replace(RECIPES["quick"], **values)
