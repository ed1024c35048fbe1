"""Recipes hold the figures of the official release, and go through files and the command line unchanged."""

import json

import pytest

from internimage.models import VARIANTS
from internimage.released import get
from internimage.tasks import cli
from internimage.tasks.classification.recipes import RECIPES, ClassificationRecipe
from internimage.tasks.training.recipe import read_recipe, recipe_json
from internimage.tasks.training.schedule import schedule_of

pytestmark = pytest.mark.once


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_a_file(tmp_path, name):
    (tmp_path / "recipe.json").write_text(recipe_json(RECIPES[name]))
    assert read_recipe(ClassificationRecipe, tmp_path / "recipe.json") == RECIPES[name]


@pytest.mark.parametrize("letter", "tsb")
def test_imagenet_from_scratch_has_the_official_rates(letter):
    """Peak 4e-3 at a batch of 4096, 4e-6 at the start, 4e-5 at the end; 300 epochs with 20 of warm-up."""
    recipe = RECIPES[f"internimage_{letter}_1k_224"]
    schedule = schedule_of(recipe, steps_per_epoch=100)
    peak = recipe.learning_rate * recipe.lr_factor
    assert peak == pytest.approx(4e-3)
    assert schedule(0, peak) == pytest.approx(4e-6)
    assert schedule(2000, peak) == pytest.approx(0.989 * peak, rel=1e-3)
    assert schedule(30000, peak) == pytest.approx(4e-5)
    assert recipe.size == 224
    assert (recipe.epochs, recipe.mixup, recipe.cutmix, recipe.ema_decay, recipe.clip_norm) == (300, 0.8, 1, 0.9999, 5)


@pytest.mark.parametrize(("model", "size"), [("l", 384), ("xl", 384), ("h", 640), ("g", 512)])
def test_fine_tuning_from_22k_has_the_official_values_with_and_without_layer_decay(model, size):
    name = f"internimage_{model}_22kto1k_{size}"
    decayed, plain = RECIPES[name], RECIPES[f"{name}_without_lr_decay"]
    assert (decayed.layer_decay, decayed.offset_lr_scale) == (0.9, 0.1)
    assert (plain.layer_decay, plain.offset_lr_scale) == (None, 1.0)
    for recipe in (decayed, plain):
        assert recipe.learning_rate * recipe.lr_factor == 2e-5
        assert (recipe.epochs, recipe.warmup_epochs, recipe.size, recipe.label_smoothing) == (20, 2, size, 0.3)
        assert (recipe.mixup, recipe.cutmix, recipe.erasing, recipe.init_classifier) == (0, 0, 0, "22k-to-1k")
        assert get(recipe.init).num_classes == 21841
        assert get(recipe.init).variant == recipe.model


def test_inaturalist_uses_places_and_dates_with_the_official_values():
    recipe = RECIPES["internimage_h_22ktoinat18_384"]
    assert (recipe.epochs, recipe.warmup_epochs, recipe.size, recipe.drop_path_rate) == (100, 0, 384, 0.6)
    assert recipe.metadata
    assert recipe.ema_decay is None
    assert recipe.init_classifier == "fresh"


def test_stochastic_depth_and_size_are_the_variants_unless_said_otherwise():
    for letter, rate in zip("tsb", (0.1, 0.4, 0.5), strict=True):
        recipe = RECIPES[f"internimage_{letter}_1k_224"]
        assert recipe.drop_path_rate is None
        assert VARIANTS[recipe.model].drop_path_rate == rate


def test_the_resolved_recipe_is_shown(capsys):
    argv = "train classification --recipe internimage_b_1k_224 --epochs 10 --mixup 0.5 --warmup-epochs 1 --print-recipe"
    assert cli.main(argv.split()) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["model"], shown["epochs"], shown["mixup"], shown["cutmix"]) == ("internimage_b", 10, 0.5, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--recipe quik", "did you mean quick"),
        ("--recipe quick --model internimage_q", "--model must be one of internimage_atto"),
        ("--recipe quick --image-size 8", "--image-size must be at least 32"),
        ("--recipe quick --rand-augment rand-x9", "rand-x9"),
        ("--recipe quick --mixup -1", "--mixup must be at least 0"),
        ("--recipe quick --crop-scale 0.5", "--crop-scale must be two numbers"),
        ("--recipe quick", "--data DIR"),
    ],
)
def test_a_value_that_makes_no_sense_is_named_in_one_line(capsys, options, message):
    assert cli.main(f"train classification {options}".split()) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
