"""From a folder of labelled pictures to a segmentor that is evaluated and used, by the commands alone."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from small_segmentors import small_segmentor

from internimage import create_model, save_checkpoint
from internimage.tasks import cli
from internimage.tasks.images import read_image
from internimage.tasks.segmentation import create_segmentor
from internimage.tasks.segmentation.datasets import open_dataset
from internimage.tasks.segmentation.objective import total_loss
from internimage.tasks.segmentation.recipes import RECIPES
from internimage.tasks.segmentation.train import build_model, build_optimizer

COLOURS = np.array([[30, 60, 200], [40, 180, 60], [210, 40, 30]], np.uint8)
NAMES = ["sky", "meadow", "roof"]
SMALL = "--model upernet_internimage_atto_small --crop 64 64 --batch-size 4 --epochs 10 --warmup-epochs 1"
SMALL += " --learning-rate 3e-3 --ema-decay none --workers 0 --log-steps 1 --eval-epochs 5"


def scene(rng):
    """Sky, a meadow below, a roof somewhere, noise; some pixels belong to nothing."""
    labels = np.zeros((72, 96), np.uint8)
    horizon = rng.integers(20, 50)
    labels[horizon:] = 1
    left, top = rng.integers(0, 60), rng.integers(5, 40)
    labels[top : top + 25, left : left + 30] = 2
    image = np.clip(COLOURS[labels] + rng.normal(0, 20, (72, 96, 3)), 0, 255).astype(np.uint8)
    labels[horizon] = 255
    return image, labels


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "scenes"
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 5)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(count):
            image, labels = scene(rng)
            cv2.imwrite(str(folder / "images" / split / f"{number}.png"), image[..., ::-1])
            cv2.imwrite(str(folder / "labels" / split / f"{number}.png"), labels)
    (folder / "classes.json").write_text(json.dumps({"names": NAMES, "palette": COLOURS.tolist()}))
    return folder


def train(scenes, run, *options, recipe="quick"):
    words = ["train", "segmentation", "--recipe", recipe, "--data", scenes, "--output", run, *SMALL.split(), *options]
    return cli.main([str(word) for word in words])


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    assert train(scenes, run) == 0
    return run


def log(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_run_learns_and_leaves_figures_and_pictures(trained):
    rows = log(trained)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 30
    assert np.mean(losses[-3:]) < 0.6 * np.mean(losses[:3])
    assert [row["epoch"] for row in rows if "miou" in row] == [5, 10]
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["miou"] == max(row["miou"] for row in rows if "miou" in row)
    assert metrics["miou"] > 0.5
    assert [row["name"] for row in metrics["per_class"]] == NAMES
    for name in ("curves.png", "iou.png", "samples.png"):
        assert min(read_image(trained / name).shape[:2]) > 200
    assert "mean IoU" in (trained / "report.txt").read_text()


def test_evaluation_repeats_the_runs_figures(scenes, trained, tmp_path, capsys):
    words = ["eval", "segmentation", "--data", scenes, "--checkpoint", trained, "--workers", "0"]
    assert cli.main([str(word) for word in [*words, "--json", "--output", tmp_path / "scores"]]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again.pop("unreadable") == []
    assert again == json.loads((trained / "metrics.json").read_text())
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text()) == again


def test_two_processes_count_every_pixel_once(scenes, trained, tmp_path):
    command = ["torchrun", "--nproc-per-node", "2", "-m", "internimage", "eval", "segmentation"]
    options = ["--data", scenes, "--checkpoint", trained, "--workers", "0", "--output", tmp_path]
    found = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *command[1:], *map(str, options)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert found.returncode == 0, found.stderr
    # 5 pictures: one of the processes sees the last one twice.
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads((trained / "metrics.json").read_text())


def test_windows_scales_and_mirrors_are_averaged(scenes, trained, capsys):
    words = ["eval", "segmentation", "--data", scenes, "--checkpoint", trained, "--workers", "0", "--json"]
    words += ["--scales", "0.75", "1", "--flip", "--window", "64", "64", "--stride", "32", "32"]
    assert cli.main([str(word) for word in words]) == 0
    assert json.loads(capsys.readouterr().out)["miou"] > 0.4


def test_prediction_writes_the_classes_that_it_tells(scenes, trained, tmp_path, capsys):
    folder = scenes / "images" / "val"
    words = ["predict", "segmentation", folder, "--checkpoint", trained, "--output", tmp_path, "--json"]
    assert cli.main([str(word) for word in words]) == 0
    predictions = json.loads(capsys.readouterr().out)
    dataset = open_dataset(scenes, "val")
    right = total = 0
    for index, prediction in enumerate(predictions):
        labels = cv2.imread(str(tmp_path / f"{index}.png"), cv2.IMREAD_COLOR_RGB)
        truth = dataset.read(index).labels
        classes = (labels[:, :, None] == COLOURS).all(-1).argmax(-1)  # viewers see the palette's colours
        assert sum(prediction["shares"]) == pytest.approx(1)
        for label, share in zip(prediction["labels"], prediction["shares"], strict=True):
            assert share == pytest.approx((classes == label).mean())
        right += int((classes == truth)[truth != 255].sum())
        total += int((truth != 255).sum())
        assert read_image(tmp_path / f"{index}.overlay.png").shape[1] > 96
    assert right / total == pytest.approx(json.loads((trained / "metrics.json").read_text())["aacc"])


def test_an_unreadable_picture_does_not_stop_the_others(scenes, trained, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    picture = scenes / "images" / "val" / "0.png"
    words = ["predict", "segmentation", tmp_path / "broken.png", picture, "--checkpoint", trained]
    assert cli.main([str(word) for word in [*words, "--output", tmp_path / "out"]]) == 1
    found = capsys.readouterr()
    assert "1 of 2 files could not be read" in found.err
    assert str(picture) in found.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.overlay.png", "0.png"]


def test_other_classes_than_the_models_are_refused(scenes, trained, tmp_path, capsys):
    for kind in ("images", "labels"):
        (tmp_path / kind).symlink_to(scenes / kind)
    for names, message in (([*NAMES, "wall"], "3 classes apart, the data has 4"), (NAMES[::-1], "'sky' to the model")):
        (tmp_path / "classes.json").write_text(json.dumps({"names": names}))
        words = ["eval", "segmentation", "--data", tmp_path, "--checkpoint", trained, "--workers", "0"]
        assert cli.main([str(word) for word in words]) == 1
        assert message in capsys.readouterr().err


def test_mask2former_trains_by_the_same_command(scenes, tmp_path):
    options = "--model mask2former_internimage_atto_small --points 256 --epochs 2 --eval-epochs 2 --warmup-epochs 0"
    assert train(scenes, tmp_path / "run", *options.split(), recipe="quick_mask2former") == 0
    losses = [row["loss"] for row in log(tmp_path / "run") if "loss" in row]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("method", ["upernet", "segformer", "mask2former"])
def test_every_head_overfits_a_few_pictures(method):
    rng = np.random.default_rng(1)
    image, labels = scene(rng)
    images = torch.from_numpy(image[:64, :64].copy()).permute(2, 0, 1)[None].float() / 128 - 1
    targets = torch.from_numpy(labels[:64, :64].copy())[None]
    images, targets = torch.cat([images, images.flip(-1)]), torch.cat([targets, targets.flip(-1)])
    model = small_segmentor(method, num_classes=3).train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = total_loss(*model(images), targets, points=512)
        loss.backward()
        optimizer.step()
    predicted = model.eval()(images).argmax(1)
    valid = targets != 255
    assert (predicted == targets)[valid].float().mean() > 0.97


def groups_of(name):
    recipe = replace(RECIPES[name], init=None, sync_batch_norm=False)
    with torch.device("meta"):
        model = build_model(recipe, 150)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = build_optimizer(recipe, model).param_groups
    return {names[parameter]: group for group in groups for parameter in group["params"]}


def test_the_official_rates_of_upernet_l():
    groups = groups_of("upernet_internimage_l_640_160k_ade20k")
    rates = {name: group["peak_lr"] / 2e-5 for name, group in groups.items()}
    assert rates["head.classifier.weight"] == 1
    assert rates["backbone.stem.conv1.weight"] == pytest.approx(0.94**38)  # 37 blocks, and the layer above
    assert rates["backbone.stages.3.blocks.4.mlp.fc1.weight"] == pytest.approx(0.94)
    decayed = {name for name, group in groups.items() if group["weight_decay"]}
    assert all(groups[name]["weight_decay"] == 0.05 for name in decayed)
    assert "backbone.stages.0.blocks.0.layer_scale1.gamma" not in decayed
    assert {"head.classifier.weight", "backbone.stages.0.blocks.0.dcn.offset.weight"} <= decayed


def test_the_official_rates_of_mask2former_h():
    groups = groups_of("mask2former_internimage_h_896_80k_cocostuff164k")
    lowest = pytest.approx(2e-5 * 0.95**51)  # with the stem, 50 blocks below the head
    for name in ("class_embed.weight", "mask_embed.4.bias", "query", "query_position", "level_embed"):
        assert groups[f"head.{name}"]["peak_lr"] == lowest, name
    assert groups["head.pixel_decoder.level_embed"]["peak_lr"] == 2e-5
    offsets = "head.pixel_decoder.encoder.0.attention.{}.weight"
    assert groups[offsets.format("offsets")]["weight_decay"] == 0
    assert groups[offsets.format("weights")]["weight_decay"] == 0.05


def built(init, init_head="none", method="mask2former", num_classes=3):
    recipe = replace(RECIPES["quick"], model=f"{method}_internimage_atto_small", init=str(init), init_head=init_head)
    return build_model(recipe, num_classes).state_dict()


def test_a_classifiers_weights_start_the_backbone(tmp_path):
    torch.manual_seed(1)
    source = create_model("internimage_atto", num_classes=4)
    state = built(save_checkpoint(source, tmp_path / "weights.safetensors"))
    for name, weight in source.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(state[f"backbone.{name}"], weight), name


@pytest.mark.parametrize("layout", ["internimage", "official"])
@pytest.mark.parametrize("method", ["upernet", "mask2former"])
def test_a_segmentors_weights_start_all_but_other_classes(tmp_path, method, layout):
    torch.manual_seed(1)
    source = create_segmentor(f"{method}_internimage_atto_small", num_classes=7)
    path = tmp_path / ("weights.safetensors" if layout == "internimage" else "weights.pth")
    save_checkpoint(source, path, layout=layout)
    state = built(path, "fresh", method)
    for name, weight in source.state_dict().items():
        if "class_embed" not in name and "classifier" not in name:
            assert torch.equal(state[name], weight), name
        else:
            assert len(state[name]) in (3, 4)  # Mask2Former has one for "no object"
    same = built(path, "same", method, num_classes=7)
    assert all(torch.equal(same[name], weight) for name, weight in source.state_dict().items())
    if method == "upernet":
        first = built(path, "first", method)
        assert torch.equal(first["head.classifier.weight"], source.state_dict()["head.classifier.weight"][:3])
