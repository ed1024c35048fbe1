"""`internimage train pretraining` from shards to weights that the other tasks start from."""

import json
import os
import signal

import cv2
import pytest
import safetensors.torch
import torch
from pretraining_data import ALONE, recipe, rows

from internimage import create_model, load_checkpoint
from internimage.tasks import cli
from internimage.tasks.pretraining import train as command
from internimage.tasks.segmentation.recipes import RECIPES as SEGMENTATION
from internimage.tasks.segmentation.train import build_model as build_segmentor
from internimage.tasks.training.checkpoints import read_weights
from internimage.tasks.training.recipe import recipe_json


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Thirty steps of all three targets."""
    run = tmp_path_factory.mktemp("runs") / "run"
    chosen = recipe(steps=30, batch_size=12, learning_rate=3e-3, log_steps=5, eval_steps=15, sync_batch_norm=False)
    command.train(chosen, data, run, ALONE)
    return run


def test_it_learns_all_targets_without_collapse(run):
    logged = [row for row in rows(run) if "loss" in row]
    first, last = logged[0], logged[-1]
    for name in ("dense", "text", "category"):
        assert last[name] < 0.9 * first[name], name
    assert last["text_information"] > first["text_information"] + 0.2
    assert last["std"] > 0.3
    assert last["effective_rank"] > 3
    evaluated = [row for row in rows(run) if "loss" not in row]
    assert [row["step"] for row in evaluated] == [15, 30]
    assert evaluated[-1]["category"] < evaluated[0]["category"]


def test_a_run_leaves_weights_report_tokenizer_and_curves(run):
    files = {path.name for path in run.iterdir()}
    assert files >= {"best.safetensors", "report.txt", "tokenizer.json", "recipe.json", "checkpoints"}
    assert cv2.imread(str(run / "curves.png")).std() > 10
    assert "category_accuracy" in (run / "report.txt").read_text()


def test_its_weights_start_classifiers_and_segmentors(run, tmp_path):
    weights = safetensors.torch.load_file(run / "best.safetensors")
    same = create_model("test_conv", num_classes=3)
    load_checkpoint(same, run / "best.safetensors")
    assert torch.equal(same.head.classifier.weight, weights["head.classifier.weight"])
    other = create_model("test_conv", num_classes=7)
    load_checkpoint(other, run / "best.safetensors", classifier="fresh")
    assert torch.equal(other.stages[2].blocks[0].mlp.fc1.weight, weights["stages.2.blocks.0.mlp.fc1.weight"])
    backbone = create_model("test_conv", features_only=True)
    load_checkpoint(backbone, run / "best.safetensors")
    assert torch.equal(backbone.stem.conv1.weight, weights["stem.conv1.weight"])


def test_a_consolidated_checkpoint_holds_an_encoder_too(run, tmp_path):
    (folder,) = (run / "checkpoints").glob("step-00000030")
    assert any(name.startswith("dense.momentum.") for name in read_weights(folder))
    assert cli.main(["consolidate", str(folder), str(tmp_path / "whole.safetensors")]) == 0
    model = create_model("test_conv", num_classes=3)
    report = load_checkpoint(model, tmp_path / "whole.safetensors")
    assert report.origin == "a pre-training run"
    weights = safetensors.torch.load_file(run / "best.safetensors")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


@pytest.mark.once
def test_an_interrupted_run_ends_as_if_it_had_not_been(data, tmp_path, monkeypatch):
    chosen = recipe(steps=4, eval_steps=4, text_weight=0.0, category_weight=0.0, momentum=0.5)
    command.train(chosen, data, tmp_path / "whole", ALONE)
    follow = command.PretrainingTask.after_step

    def stop_after_two(self, model, step):
        follow(self, model, step)
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(command.PretrainingTask, "after_step", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        command.train(chosen, data, tmp_path / "cut", ALONE)
    monkeypatch.undo()
    command.train(chosen, data, tmp_path / "cut", ALONE)
    whole, cut = (read_weights(tmp_path / name / "checkpoints" / "step-00000004") for name in ("whole", "cut"))
    assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())
    assert not torch.equal(whole["dense.momentum.stem.conv1.weight"], whole["encoder.stem.conv1.weight"])


def test_stored_representations_of_texts_need_no_tokenizer(data, tmp_path):
    chosen = recipe(steps=1, eval_steps=1, stored_texts=True, dense_weight=0.0, category_weight=0.0)
    command.train(chosen, data, tmp_path / "run", ALONE)
    assert not (tmp_path / "run" / "tokenizer.json").exists()
    assert rows(tmp_path / "run")[0]["text"] > 0


def test_the_command_names_what_is_wrong(data, tmp_path, capsys):
    (tmp_path / "recipe.json").write_text(recipe_json(recipe(steps=1)))
    words = ["train", "pretraining", "--recipe", tmp_path / "recipe.json", "--output", tmp_path / "run", "--data"]
    assert cli.main([*map(str, words), str(tmp_path)]) == 1
    assert "holds no data called train" in capsys.readouterr().err
    assert cli.main(["train", "pretraining", "--recipe", "quick", "--print-recipe"]) == 0
    assert json.loads(capsys.readouterr().out)["mixed_images"] == 2


@pytest.mark.once
def test_a_segmentor_starts_from_a_run_of_its_backbone(data, tmp_path):
    chosen = recipe(model="internimage_atto", steps=1, eval_steps=1, dense_weight=0.0, category_weight=0.0)
    command.train(chosen, data, tmp_path / "run", ALONE)
    segmentation = SEGMENTATION["quick"]
    values = {**vars(segmentation), "model": "upernet_internimage_atto_small", "init": str(tmp_path / "run")}
    segmentor = build_segmentor(type(segmentation)(**values), 4)
    weights = safetensors.torch.load_file(tmp_path / "run" / "best.safetensors")
    assert torch.equal(segmentor.backbone.stem.conv1.weight, weights["stem.conv1.weight"])
