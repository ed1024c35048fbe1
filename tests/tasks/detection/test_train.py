"""From a folder of annotated pictures to a detector that is evaluated and used, by the commands alone."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_shapes import NAMES, make_shapes
from safetensors.torch import load_file
from small_detectors import small_dino

from internimage import create_model, save_checkpoint
from internimage.tasks import cli
from internimage.tasks.detection import create_detector
from internimage.tasks.detection.recipes import RECIPES
from internimage.tasks.detection.train import build_model, build_optimizer
from internimage.tasks.images import read_image
from internimage.tasks.training.run_directory import BEST

COMPOSITE = Path(__file__).parents[2] / "composite_training.py"
SMALL = "--model mask_rcnn_internimage_atto_small --batch-size 4 --epochs 12 --warmup-steps 5 --learning-rate 3e-3"
SMALL += " --short-sides 64 80 --long-side 128 --test-scale 112 80 --ema-decay none --workers 0 --log-steps 1"
SMALL += " --eval-epochs 12 --save-steps 100"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", {"train": 16, "val": 5})


def train(shapes, run, *options):
    words = ["train", "detection", "--recipe", "quick_masks", "--data", shapes, "--output", run, *SMALL.split()]
    return cli.main([str(word) for word in [*words, *options]])


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    assert train(shapes, run) == 0
    return run


def log(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_run_learns_and_leaves_figures_and_pictures(trained):
    losses = [row["loss"] for row in log(trained) if "loss" in row]
    assert np.mean(losses[-3:]) < 0.4 * np.mean(losses[:3])
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["mask_ap50"] > 0.4
    assert [row["name"] for row in metrics["per_class"]] == list(NAMES)
    for name in ("curves.png", "confusion.png", "samples.png"):
        assert min(read_image(trained / name).shape[:2]) > 200


def test_evaluation_repeats_the_runs_figures(shapes, trained, capsys):
    words = ["eval", "detection", "--data", shapes, "--checkpoint", trained, "--workers", "0", "--json"]
    assert cli.main([str(word) for word in words]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again.pop("unreadable") == []
    assert again == json.loads((trained / "metrics.json").read_text())


@pytest.mark.once
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_learn_from_pictures_with_and_without_objects(tmp_path, strategy):
    data = make_shapes(tmp_path / "data", {"train": 4, "val": 3})
    annotations = data / "annotations" / "instances_train.json"
    content = json.loads(annotations.read_text())
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] == 0]
    annotations.write_text(json.dumps(content))
    options = [*SMALL.split(), "--epochs", "2", "--eval-epochs", "2", "--keep-empty", "--strategy", strategy]
    words = ["--recipe", "quick_masks", "--data", data, "--output", tmp_path / "run", *options]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "internimage"]
    found = subprocess.run(
        [*command, "train", "detection", *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert found.returncode == 0, found.stderr
    losses = [row["loss"] for row in log(tmp_path / "run") if "loss" in row]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    assert "mask_ap" in json.loads((tmp_path / "run" / "metrics.json").read_text())


def test_dino_trains_by_the_same_command(shapes, tmp_path, capsys):
    options = "--model dino_internimage_atto_small --epochs 3 --eval-epochs 3 --learning-rate 1e-3 --warmup-steps 0"
    assert train(shapes, tmp_path / "run", *options.split()) == 0
    losses = [row["loss"] for row in log(tmp_path / "run") if "loss" in row]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    capsys.readouterr()
    words = ["eval", "detection", "--data", shapes, "--checkpoint", tmp_path / "run", "--workers", "0", "--json"]
    assert cli.main([str(word) for word in words]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again.pop("unreadable") == []
    assert again == json.loads((tmp_path / "run" / "metrics.json").read_text())


def test_two_processes_shard_dino_on_a_composite_backbone(tmp_path):
    data = make_shapes(tmp_path / "data", {"train": 4, "val": 3})
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(COMPOSITE)]
    found = subprocess.run(
        [*command, str(data), str(tmp_path / "run"), "fsdp"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(COMPOSITE.parent)},
    )
    assert found.returncode == 0, found.stderr
    losses = [row["loss"] for row in log(tmp_path / "run") if "loss" in row]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    before, after = small_dino(composite=True, num_classes=2).state_dict(), load_file(tmp_path / "run" / BEST)
    assert set(after) == set(before)
    frozen = {name for name in after if ".stem." in name or ".stages.0." in name}
    assert frozen
    for name, weight in after.items():
        assert torch.equal(weight, before[name]) == (name in frozen or not weight.is_floating_point()), name


def test_both_splits_must_have_the_same_classes(shapes, tmp_path, capsys):
    data = tmp_path / "shapes"
    (data / "annotations").mkdir(parents=True)
    (data / "images").symlink_to(shapes / "images")
    for path in (shapes / "annotations").iterdir():
        content = json.loads(path.read_text())
        if "val" in path.name:
            content["categories"].append({"id": 99, "name": "cube"})
        (data / "annotations" / path.name).write_text(json.dumps(content))
    assert train(data, tmp_path / "run") == 1
    message = f"class {len(NAMES)} is None in one and 'cube' in the other; give both the same categories"
    assert message in capsys.readouterr().err


def test_that_no_picture_can_be_read_is_told_in_one_line(shapes, tmp_path, capsys):
    data = tmp_path / "shapes"
    data.mkdir()
    (data / "annotations").symlink_to(shapes / "annotations")
    for path in (shapes / "images").rglob("*.png"):
        spoilt = data / path.relative_to(shapes)
        spoilt.parent.mkdir(parents=True, exist_ok=True)
        spoilt.write_bytes(b"no picture")
    assert train(data, tmp_path / "run", "--workers", "1") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("internimage: error: 16 samples in a row can't be read: ")
    assert error.endswith("; and 6 more")


@pytest.mark.parametrize("split", ["training", "validation"])
def test_masks_need_data_that_has_them(split, shapes, tmp_path, capsys):
    data = tmp_path / "boxes"
    (data / "annotations").mkdir(parents=True)
    (data / "images").symlink_to(shapes / "images")
    for path in (shapes / "annotations").iterdir():
        content = json.loads(path.read_text())
        if ("train" in path.name) == (split == "training"):
            content["annotations"][0]["segmentation"] = []
        (data / "annotations" / path.name).write_text(json.dumps(content))
    assert train(data, tmp_path / "run") == 1
    printed = capsys.readouterr()
    assert f"mask_rcnn_internimage_atto_small learns masks, but not all {split} objects of" in printed.err
    assert re.search(r"1 of \d+ objects have no mask", printed.out)


def groups_of(name):
    recipe = replace(RECIPES[name], init=None, sync_batch_norm=False)
    with torch.device("meta"):
        model = build_model(recipe, 80)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = build_optimizer(recipe, model).param_groups
    return {names[parameter]: group for group in groups for parameter in group["params"]}


def test_the_official_rates_of_a_cascade():
    groups = groups_of("cascade_internimage_l_fpn_1x_coco")
    rates = {name: group["peak_lr"] / 1e-4 for name, group in groups.items()}
    assert rates["roi_heads.box_heads.2.classifier.weight"] == rates["rpn.conv.weight"] == 1
    assert rates["backbone.stem.conv1.weight"] == pytest.approx(0.94**38)  # 37 blocks, and the layer above
    assert rates["backbone.stages.3.blocks.4.mlp.fc1.weight"] == pytest.approx(0.94)
    decayed = {name for name, group in groups.items() if group["weight_decay"]}
    assert "roi_heads.box_heads.0.convs.0.norm.weight" not in decayed
    assert {"roi_heads.mask_heads.0.upsample.weight", "backbone.stages.0.blocks.0.dcn.offset.weight"} <= decayed


def test_the_official_rates_of_dino():
    layers = groups_of("dino_4scale_internimage_l_1x_coco_layer_wise_lr")
    assert layers["encoder.level_embed"]["peak_lr"] == pytest.approx(1e-4 * 0.90**38)  # with the stem
    assert layers["backbone.stem.conv1.weight"]["peak_lr"] == pytest.approx(1e-4 * 0.90**38)
    offsets = next(name for name in layers if name.endswith("attention.offsets.weight"))
    assert (layers[offsets]["peak_lr"], layers[offsets]["weight_decay"]) == (1e-4, 0)
    tenth = groups_of("dino_4scale_internimage_l_1x_coco_0.1x_backbone_lr")
    assert tenth["backbone.stages.3.blocks.4.mlp.fc1.weight"]["peak_lr"] == pytest.approx(1e-5)
    assert tenth["decoder.layers.0.self_attention.out_proj.weight"]["peak_lr"] == 1e-4
    composite = groups_of("dino_4scale_cbinternimage_h_objects365_coco_ss")
    rates = {group["peak_lr"] for name, group in composite.items() if name.startswith("backbone.")}
    assert rates == {1e-4}  # the official rule knows none of the names of two backbones
    assert composite[offsets]["peak_lr"] == pytest.approx(1e-7)
    assert composite["encoder.level_embed"]["peak_lr"] == pytest.approx(1e-4 * 0.94**51)


def built(init, init_head="none", num_classes=3):
    recipe = replace(RECIPES["quick_masks"], model="mask_rcnn_internimage_atto_small", init=str(init))
    return build_model(replace(recipe, init_head=init_head), num_classes).state_dict()


def test_a_classifiers_weights_start_the_backbone(tmp_path):
    torch.manual_seed(1)
    source = create_model("internimage_atto", num_classes=4)
    state = built(save_checkpoint(source, tmp_path / "weights.safetensors"))
    for name, weight in source.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(state[f"backbone.{name}"], weight), name


@pytest.mark.parametrize("layout", ["internimage", "official"])
def test_a_detectors_weights_start_all_but_other_classes(tmp_path, layout):
    torch.manual_seed(1)
    source = create_detector("mask_rcnn_internimage_atto_small", num_classes=7)
    path = tmp_path / ("weights.safetensors" if layout == "internimage" else "weights.pth")
    save_checkpoint(source, path, layout=layout)
    state = built(path, "fresh")
    of_classes = ("box_heads.0.classifier", "box_heads.0.deltas", "mask_heads.0.classifier")
    for name, weight in source.state_dict().items():
        if not any(part in name for part in of_classes):
            assert torch.equal(state[name], weight), name
    assert len(state["roi_heads.box_heads.0.classifier.weight"]) == 4
    same = built(path, "same", num_classes=7)
    assert all(torch.equal(same[name], weight) for name, weight in source.state_dict().items())
