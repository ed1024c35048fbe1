"""`internimage predict` names pictures as the model does, whatever else lies among them."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import internimage
from internimage import imagenet
from internimage.tasks import drawing, images
from internimage.tasks.cli import main

MODEL = "internimage_atto"
CLASSES = 7


def write_picture(path: Path, seed: int) -> Path:
    noise = np.random.default_rng(seed).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write_image(path, cv2.GaussianBlur(noise, (0, 0), 3))
    return path


@pytest.fixture(scope="module")
def model() -> internimage.InternImage:
    torch.manual_seed(0)
    model = internimage.create_model(MODEL, num_classes=CLASSES)
    torch.nn.init.normal_(model.get_classifier().weight)  # spread the probabilities
    return model.eval()


@pytest.fixture(scope="module")
def options(model, tmp_path_factory) -> list[str]:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    internimage.save_checkpoint(model, path)
    return ["--model", MODEL, "--checkpoint", str(path), "--num-classes", str(CLASSES), "--size", "64"]


def expected_probabilities(model: torch.nn.Module, path: Path) -> torch.Tensor:
    with torch.no_grad():
        return model(images.prepare(images.read_image(path), 64)[None])[0].softmax(0)


def test_the_json_holds_the_models_best_classes(model, options, tmp_path, capsys):
    paths = [write_picture(tmp_path / f"{i}.png", i) for i in range(5)]
    assert main(["predict", *map(str, paths), *options, "--json", "--top", "3", "--batch-size", "2"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in rows] == [str(path) for path in paths]
    for row, path in zip(rows, paths, strict=True):
        best = expected_probabilities(model, path).topk(3)
        assert row["labels"] == best.indices.tolist()
        assert row["names"] == [f"class {label}" for label in row["labels"]]
        torch.testing.assert_close(torch.tensor(row["probabilities"]), best.values, atol=1e-5, rtol=1e-4)


def test_the_text_and_the_picture_say_the_same(model, options, tmp_path, capsys):
    path = write_picture(tmp_path / "photo.jpg", 1)
    assert main(["predict", str(path), *options, "--top", "2", "--output", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    best = expected_probabilities(model, path).topk(2)
    assert lines[0] == str(path)
    assert [line.split()[1:] for line in lines[1:]] == [["class", str(label)] for label in best.indices.tolist()]
    picture = images.read_image(tmp_path / "out" / "photo.png")
    bar = (picture == drawing.BLUE).all(-1).sum(1).max()
    assert bar == pytest.approx(400 * best.values[0].item(), abs=2)


def test_more_classes_than_there_are_gives_all_of_them(options, tmp_path, capsys):
    assert main(["predict", str(write_picture(tmp_path / "a.png", 0)), *options, "--json", "--top", "50"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert sorted(row["labels"]) == list(range(CLASSES))
    assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)


def test_bad_files_do_not_stop_the_others(options, tmp_path):
    good = [write_picture(tmp_path / f"good{i}.png", i) for i in range(2)]
    (tmp_path / "notes.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    truncated = tmp_path / "truncated.png"
    truncated.write_bytes(good[0].read_bytes()[:-100])
    arguments = [str(tmp_path), str(tmp_path / "missing.png"), *options, "--json", "--batch-size", "1"]
    command = [sys.executable, "-m", "internimage", "predict", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert [row["file"] for row in json.loads(result.stdout)] == [str(path) for path in good]
    assert "Traceback" not in result.stderr
    for name, reason in (
        ("notes", "not a picture"),
        ("empty", "is empty"),
        ("truncated", "truncated PNG"),
        ("missing", "no such file"),
    ):
        assert f"internimage: {tmp_path / name}.png: {reason}" in result.stderr
    assert "4 of 6 files could not be read" in result.stderr


def test_no_readable_file_at_all_is_reported(options, tmp_path, capsys):
    assert main(["predict", str(tmp_path / "missing.png"), *options]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "1 of 1 files could not be read" in err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--top", "0"], "--top must be at least 1, got 0"),
        (["--batch-size", "-1"], "--batch-size must be at least 1, got -1"),
        (["--size", "0"], "--size must be at least 1, got 0"),
        (["--num-classes", "8"], "classifier"),
        (["--model", "internimage_attto"], "internimage_atto"),
        (["--checkpoint", "missing.pth"], "missing.pth"),
    ],
)
def test_wrong_options_are_one_line(options, tmp_path, capsys, extra, message):
    assert main(["predict", str(write_picture(tmp_path / "a.png", 0)), *options, *extra]) == 1
    err = capsys.readouterr().err
    assert err.startswith("internimage: error: ")
    assert err.count("\n") == 1
    assert message in err


def test_without_a_checkpoint_the_released_weights_are_taken(tmp_path, monkeypatch, capsys):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    monkeypatch.setenv("INTERNIMAGE_WEIGHTS", str(mirror))
    picture = str(write_picture(tmp_path / "a.png", 0))
    assert main(["predict", picture, "--model", "internimage_t"]) == 1
    assert "has no file internimage_t_1k_224.pth" in capsys.readouterr().err

    torch.manual_seed(0)
    model = internimage.create_model("internimage_t").eval()
    internimage.save_checkpoint(model, mirror / "internimage_t_1k_224.pth", layout="official")
    assert main(["predict", picture, "--model", "internimage_t", "--json", "--top", "1"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    with torch.no_grad():
        label = model(images.prepare(images.read_image(picture), 224)[None]).argmax().item()
    assert row["labels"] == [label]
    assert row["names"] == [imagenet.class_names(1000)[label]]
