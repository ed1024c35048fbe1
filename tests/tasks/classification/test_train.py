"""From a folder of images to a classifier that is evaluated, used and consolidated, by the commands alone."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch

from internimage import create_model, imagenet, load_checkpoint
from internimage.tasks import cli
from internimage.tasks.classification.recipes import RECIPES
from internimage.tasks.classification.train import build_model
from internimage.tasks.training.shards import write_shards

COLOURS = {"blue": (30, 60, 200), "green": (40, 180, 60), "red": (210, 40, 30)}
TRAINED, HELD_OUT = 16, 6  # of a class
SMALL = "--model internimage_atto --image-size 32 --batch-size 8 --epochs 2 --ema-decay 0.8 --workers 0 --log-steps 1"


def picture(colour, rng):
    noise = rng.normal(0, 25, (40, 48, 3))
    return np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)


def encoded(colour, rng):
    return cv2.imencode(".png", picture(colour, rng)[..., ::-1])[1].tobytes()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "photos"
    rng = np.random.default_rng(0)
    for split, count in (("train", TRAINED), ("val", HELD_OUT)):
        for colour in COLOURS:
            place = folder / split / colour
            place.mkdir(parents=True)
            for number in range(count):
                (place / f"{number}.png").write_bytes(encoded(colour, rng))
    return folder


def train(photos, run, *options):
    words = [
        "train",
        "classification",
        "--recipe",
        "quick",
        "--data",
        photos,
        "--output",
        run,
        *SMALL.split(),
        *options,
    ]
    return cli.main([str(word) for word in words])


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    assert train(photos, run) == 0
    return run


def log(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_run_leaves_weights_report_log_and_pictures(run):
    files = {path.name for path in run.iterdir()}
    assert files >= {"best.safetensors", "metrics.json", "report.txt", "recipe.json", "environment.json", "log.jsonl"}
    for name in ("curves.png", "confusion.png"):
        assert cv2.imread(str(run / name)).std() > 10
    epochs = [row for row in log(run) if "top1" in row]
    assert [row["epoch"] for row in epochs] == [1, 2]
    assert (
        max(row[key] for row in epochs for key in ("top1", "ema_top1"))
        == json.loads((run / "metrics.json").read_text())["top1"]
    )


def test_it_learns(run):
    losses = [row["loss"] for row in log(run) if "loss" in row]
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:2])


def test_the_same_command_finds_the_run_finished(photos, run, capsys):
    before = (run / "log.jsonl").read_text()
    assert train(photos, run) == 0
    assert (run / "log.jsonl").read_text() == before
    assert "top-1 accuracy" in capsys.readouterr().out


def test_a_run_is_repeated_from_its_recipe_to_the_bit(photos, run, tmp_path):
    again = tmp_path / "again"
    words = ["train", "classification", "--recipe", run / "recipe.json", "--data", photos, "--output", again]
    assert cli.main([str(word) for word in words]) == 0
    first, second = (safetensors.torch.load_file(folder / "best.safetensors") for folder in (run, again))
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())


def test_evaluation_of_the_run_gives_what_training_reported(photos, run, tmp_path, capsys):
    words = ["eval", "classification", "--data", photos, "--checkpoint", run, "--output", tmp_path, "--workers", 0]
    assert cli.main([*map(str, words), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    reported = json.loads((run / "metrics.json").read_text())
    assert shown["images"] == 3 * HELD_OUT
    for name in ("top1", "macro", "confusion"):
        assert shown[name] == reported[name]
    assert shown["nll"] == pytest.approx(reported["nll"], rel=1e-4)
    assert json.loads((tmp_path / "metrics.json").read_text())["top1"] == shown["top1"]
    assert (tmp_path / "confusion.png").stat().st_size > 1000


def test_two_processes_evaluate_each_image_once(photos, run, tmp_path):
    """17 images are no multiple of 2: the one that is seen twice counts once."""
    data = tmp_path / "photos"
    data.mkdir()
    (data / "val").symlink_to(photos / "val")
    code = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    code += ["--rdzv-endpoint", "localhost:0", "-m", "internimage", "eval", "classification"]
    code += ["--data", str(data), "--checkpoint", str(run), "--workers", "0", "--batch-size", "4", "--json"]
    classes = tmp_path / "classes.txt"
    classes.write_text("blue\ngreen\nred\n")
    (photos / "val" / "red" / "0.png").rename(tmp_path / "kept.png")
    try:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(code, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        assert (
            cli.main(["eval", "classification", *code[code.index("--data") :], "--output", str(tmp_path / "one")]) == 0
        )
    finally:
        (tmp_path / "kept.png").rename(photos / "val" / "red" / "0.png")
    two, one = json.loads(done.stdout), json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert two["images"] == 17
    assert two["confusion"] == one["confusion"]
    assert two["nll"] == pytest.approx(one["nll"], rel=1e-5)


def test_prediction_needs_only_the_run(photos, run, capsys):
    assert cli.main(["predict", str(photos / "val" / "red"), "--checkpoint", str(run), "--json", "--top", "2"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert len(shown) == HELD_OUT
    assert all(set(row["names"]) <= COLOURS.keys() for row in shown)


def test_views_are_averaged_in_evaluation(photos, run, capsys):
    words = f"eval classification --data {photos} --checkpoint {run} --workers 0 --scales 1 1.5 --flip --json"
    assert cli.main(words.split()) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 3 * HELD_OUT


def test_a_checkpoint_becomes_one_file_that_loads(run, tmp_path, capsys):
    newest = max((run / "checkpoints").iterdir())
    for options in ([], ["--average"]):
        output = tmp_path / "weights.safetensors"
        assert cli.main(["consolidate", str(newest), str(output), *options]) == 0
        model = create_model("internimage_atto", num_classes=3)
        load_checkpoint(model, output)
    assert cli.main(["consolidate", str(newest), str(tmp_path / "weights.pth")]) == 1
    assert "must be a .safetensors file" in capsys.readouterr().err


def test_tar_shards_train_too(photos, tmp_path):
    data = tmp_path / "shards"
    rng = np.random.default_rng(1)
    for split, count in (("train", 24), ("val", 6)):
        names = sorted(COLOURS) * (count // 3)
        samples = ((f"{i:04d}", {"png": encoded(name, rng), "cls": name.encode()}) for i, name in enumerate(names))
        write_shards(samples, data / f"{split}-%06d.tar", samples_per_shard=count // 2)
    run = tmp_path / "run"
    assert train(data, run, "--streams", "2", "--epochs", "1", "--warmup-epochs", "0") == 0
    assert json.loads((run / "metrics.json").read_text())["images"] == 6


def test_a_run_starts_from_another_ones_weights_with_a_fresh_classifier(photos, run, tmp_path):
    recipe = replace(RECIPES["quick"], model="internimage_atto", init=str(run), frozen_stages=(0,), layer_decay=0.9)
    model = build_model(recipe, num_classes=5)
    weights = safetensors.torch.load_file(run / "best.safetensors")
    assert torch.equal(model.stages[3].blocks[0].mlp.fc1.weight, weights["stages.3.blocks.0.mlp.fc1.weight"])
    assert model.head.classifier.weight.shape[0] == 5
    assert model.head.classifier.weight.abs().max() < 1e-3
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen
    assert all(name.startswith(("stem.", "stages.0.")) for name in frozen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "/nowhere"], "/nowhere"),
        (["--batch-size", "64"], "48 images"),
        (["--accumulation", "3"], "--accumulation must be a divisor of 8"),
        (["--strategy", "fsdp"], "torchrun"),
        (["--init", "/nowhere.pth"], "nowhere.pth"),
        (["--streams", "2"], "as many tar files"),
    ],
)
def test_what_can_not_work_is_said_in_one_line_before_training(photos, tmp_path, capsys, options, message):
    assert train(photos, tmp_path / "run", *options) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_corrupt_picture_is_reported_and_one_too_many_stops_the_run(tmp_path, photos, capsys):
    data = tmp_path / "photos"
    for path in photos.rglob("*.png"):
        target = data / path.relative_to(photos)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes() if "train/red/3" not in str(path) else path.read_bytes()[:-40])
    assert train(data, tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert "1 of 48 images can't be read, more than 1 %" in error
    assert str(Path("train") / "red" / "3.png") in error


def test_a_22k_model_is_evaluated_on_1k_through_the_map(tmp_path, capsys):
    """The official weights are not here: a model whose classifier knows one answer gives it."""
    torch.manual_seed(0)
    model = create_model("internimage_atto", num_classes=21841)
    chosen = 7
    with torch.no_grad():
        model.head.classifier.bias.fill_(-5)[imagenet.map_22k_to_1k()[chosen]] = 100
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    rng = np.random.default_rng(0)
    for label in (chosen, 8):
        place = tmp_path / "val" / imagenet.wordnet_ids(1000)[label]
        place.mkdir(parents=True)
        (place / "a.png").write_bytes(encoded("red", rng))
    words = f"eval classification --data {tmp_path} --model internimage_atto --num-classes 21841 --size 32 --workers 0"
    assert cli.main([*words.split(), "--checkpoint", str(tmp_path / "weights.pth"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["top1"] == 0.5
    assert shown["confusion"] == [[chosen, chosen, 1], [8, chosen, 1]]
