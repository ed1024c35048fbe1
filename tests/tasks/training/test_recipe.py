"""Recipes are read from a table, a file and the command line, and refuse what makes no sense."""

import argparse
import json
from dataclasses import dataclass, fields, replace

import pytest

from internimage.tasks.training.recipe import (
    Recipe,
    add_recipe_arguments,
    differences,
    read_recipe,
    recipe_from_arguments,
    recipe_json,
    value,
)

pytestmark = pytest.mark.once


@dataclass(frozen=True)
class Own(Recipe):
    crop: tuple[float, ...] = value((0.5, 1.0), help="a task's own")


BASE = Own(model="internimage_t", epochs=3, batch_size=8, learning_rate=1e-3)


def parse(*words):
    parser = argparse.ArgumentParser()
    add_recipe_arguments(parser, Own, ["base"])
    return recipe_from_arguments(Own, {"base": BASE}, parser.parse_args(["--recipe", "base", *words]))


def test_the_command_line_replaces_any_value():
    words = "--epochs 5 --clip-norm none --ema-decay 0.99 --crop 0.1 0.2 --frozen-stages 0 1 --precision bfloat16 "
    words += "--no-sync-batch-norm --grad-checkpointing --layer-decay 9e-1"
    assert parse(*words.split()) == replace(
        BASE,
        epochs=5,
        clip_norm=None,
        ema_decay=0.99,
        crop=(0.1, 0.2),
        frozen_stages=(0, 1),
        precision="bfloat16",
        grad_checkpointing=True,
        layer_decay=0.9,
    )


def test_every_value_has_an_option_with_help(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    for row in fields(Own):
        assert f"--{row.name.replace('_', '-')}" in text
        assert row.metadata["help"].split()[0] in text


def test_a_file_gives_back_the_recipe(tmp_path):
    recipe = replace(BASE, clip_norm=None, crop=(0.25, 0.75), init="weights.pth")
    path = tmp_path / "recipe.json"
    path.write_text(recipe_json(recipe))
    assert read_recipe(Own, path) == recipe
    assert parse("--recipe", str(path), "--seed", "7") == replace(recipe, seed=7)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "unknown value 'epoch'; did you mean 'epochs'"),
        ({"epochs": "3"}, r"epochs must be int \| None, got '3'"),
        ({"epochs": True}, r"epochs must be int \| None, got True"),
        ({"precision": "int8"}, "one of float32, bfloat16, float16, got 'int8'"),
        ({"crop": ["a"]}, "crop must be"),
        ({"epochs": 0}, "--epochs must be at least 1, got 0"),
    ],
)
def test_a_wrong_value_in_a_file_is_named(tmp_path, values, message):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(json.loads(recipe_json(BASE)) | values))
    with pytest.raises(ValueError, match=message):
        read_recipe(Own, path)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not a recipe"), ("[]", "expected an object"), ("{}", "lacks model, batch_size")]
)
def test_a_broken_file_is_refused(tmp_path, text, message):
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_recipe(Own, path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ({"accumulation": 3}, "--accumulation must be a divisor of 8, got 3"),
        ({"learning_rate": -1.0}, "--learning-rate must be at least 0"),
        ({"warmup_epochs": 3.0}, "--warmup-epochs must be below --epochs"),
        ({"ema_decay": 1.0}, r"--ema-decay must be in \[0, 1\)"),
        ({"frozen_stages": (4,)}, "--frozen-stages must be of 0 to 3"),
        ({"clip_norm": 0.0}, "--clip-norm must be above 0"),
        ({"save_steps": 0}, "--save-steps must be at least 1"),
        ({"epochs": None}, "in --epochs or in --steps"),
        ({"steps": 9}, "in --epochs or in --steps, and the other as none; got --epochs 3 and --steps 9"),
        ({"epochs": None, "steps": 9, "warmup_steps": 9}, "--warmup-steps must be at least 0 and below --steps"),
        ({"warmup_steps": 2, "warmup_epochs": 1.0}, "--warmup-steps must be 0 beside --warmup-epochs"),
    ],
)
def test_a_value_out_of_range_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        replace(BASE, **values)


def test_an_unknown_recipe_names_the_closest():
    with pytest.raises(ValueError, match="did you mean base"):
        parse("--recipe", "bass")


def test_only_what_changes_the_result_counts_as_a_difference():
    assert differences(BASE, replace(BASE, workers=0, keep=9, compile="off", strategy="fsdp")) == []
    assert differences(BASE, replace(BASE, seed=1)) == ["--seed: 0 before, 1 now"]


def test_a_run_is_as_long_as_its_steps_or_epochs():
    assert BASE.total_steps(steps_per_epoch=7) == 21
    assert replace(BASE, epochs=None, steps=10).total_steps(steps_per_epoch=7) == 10


def test_learning_rates_grow_with_the_batch_from_the_given_one():
    assert BASE.lr_factor == 1
    assert replace(BASE, lr_batch=512, batch_size=4096).lr_factor == 8
