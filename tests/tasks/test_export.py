"""`internimage export` and `internimage run`: from a checkpoint to a folder, and what must not get lost on the way."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from small_detectors import small_detector
from small_segmentors import small_segmentor

from internimage import create_model
from internimage.checkpoint import describe
from internimage.deploy import load_artifact
from internimage.tasks import cli
from internimage.tasks.detection import FixedSizeDetector
from internimage.tasks.exportable import Exportable, save_artifact

SIDE = 64


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a small classifier with random weights."""
    torch.manual_seed(0)
    model = create_model("internimage_atto", num_classes=4).eval()
    path = tmp_path_factory.mktemp("weights") / "atto.safetensors"
    safetensors.torch.save_file(model.state_dict(), path, metadata=describe(model))
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8))
    return path


def export(checkpoint: Path, output: Path, *words: object) -> int:
    options = ["--checkpoint", checkpoint, "--output", output, "--format", "pt2", f"--predict=--size {SIDE}", *words]
    return cli.main(["export", *map(str, options)])


def test_a_checkpoint_becomes_a_folder_that_says_what_its_model_says(
    checkpoint: Path, photo: Path, tmp_path: Path, capsys: Any
) -> None:
    assert export(checkpoint, tmp_path / "deployed") == 0
    assert "differs from the model by" in capsys.readouterr().out
    assert cli.main(["run", str(tmp_path / "deployed"), str(photo), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    words = ["predict", "classification", "--checkpoint", str(checkpoint), "--size", str(SIDE), "--json", str(photo)]
    assert cli.main(words) == 0
    (expected,) = json.loads(capsys.readouterr().out)
    assert found["names"] == expected["names"]
    assert found["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)


def test_features_are_the_maps_of_the_stages(checkpoint: Path, tmp_path: Path) -> None:
    sizes = ("--height", "64:256", "--width", "64:256")
    assert export(checkpoint, tmp_path / "maps", "--features", "--pixels", "normalised", *sizes) == 0
    model = create_model("internimage_atto", num_classes=4).eval()
    model.load_state_dict(safetensors.torch.load_file(checkpoint))
    image = torch.randn(2, 3, 96, 160)
    with torch.no_grad():
        expected = model.forward_intermediates(image, intermediates_only=True)
    torch.testing.assert_close(load_artifact(tmp_path / "maps")(image), tuple(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.once
@pytest.mark.parametrize("kind", ["segmentation", "detection"])
def test_segmentors_and_detectors_run_as_they_did(kind: str, tmp_path: Path) -> None:
    view = {"bounds": [160, 128], "divisor": 32, "pad": kind == "detection"}
    task = {"kind": kind, "classes": list("abcde"), "view": view}
    if kind == "segmentation":
        source = Exportable(small_segmentor("segformer"), ("scores",), task)
    else:
        names = ("boxes", "scores", "labels", "counts", "masks")
        source = Exportable(FixedSizeDetector(small_detector()).eval(), names, task, padded=True)
    folder = save_artifact(source, tmp_path / kind, format="pt2", height=(96, 160), width=(96, 160), prepare=False)
    assert load_artifact(folder).difference() < 1e-5


def test_what_can_not_be_right_is_refused_and_what_was_there_stays(
    checkpoint: Path, photo: Path, tmp_path: Path, capsys: Any
) -> None:
    output, torn = tmp_path / "deployed", tmp_path / "torn.jpg"
    torn.write_bytes(b"no picture")
    assert export(checkpoint, output) == 0
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    huge = tmp_path / "huge.safetensors"
    with safetensors.safe_open(checkpoint, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
        weights["head.classifier.weight"].fill_(6e4)
        safetensors.torch.save_file(weights, huge, metadata=file.metadata())
    for source, words, message in (
        (checkpoint, ("--batch", "2:8"), "batch must start at 1, as one picture alone must fit, got (2, 8)"),
        (checkpoint, ("--format", "onnx", "--precision", "bfloat16"), "no convolution in bfloat16"),
        (checkpoint, ("--format", "onnx", "--processor", "avx2"), "ONNX has no prepare and processor"),
        (checkpoint, ("--height", "96:256"), f"must hold {SIDE}, the side of the square that this classifier looks at"),
        (checkpoint, ("--int8", photo, torn), "--int8: 1 of 2 files could not be read"),
        (huge, ("--precision", "float16"), "output logits for the example has numbers that are not finite"),
    ):
        assert export(source, output, *words) == 1
        assert message in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".deployed")]


def test_a_folder_with_other_files_is_left_alone(checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    web = tmp_path / "web"
    web.mkdir()
    (web / "manifest.json").write_text('{"name": "my web app"}')
    assert export(checkpoint, web) == 1
    assert "holds something else than a deployed model (manifest.json)" in capsys.readouterr().err
    assert [path.name for path in web.iterdir()] == ["manifest.json"]


def test_results_are_not_written_over_the_pictures(tmp_path: Path, photo: Path, capsys: Any) -> None:
    view = {"bounds": None, "divisor": 32, "pad": False}
    source = Exportable(
        torch.nn.Conv2d(3, 2, 1).eval(), ("scores",), {"kind": "segmentation", "classes": ["a", "b"], "view": view}
    )
    folder = save_artifact(source, tmp_path / "deployed", format="pt2", prepare=False)
    before = photo.read_bytes()
    assert cli.main(["run", str(folder), str(photo), "--output", str(tmp_path)]) == 1
    assert "lies in the folder for results" in capsys.readouterr().err
    assert photo.read_bytes() == before
    assert cli.main(["run", str(folder), str(photo), "--output", str(tmp_path / "labels")]) == 0
    assert cv2.imread(str(tmp_path / "labels" / "photo.png"), cv2.IMREAD_UNCHANGED).shape == (80, 100)
