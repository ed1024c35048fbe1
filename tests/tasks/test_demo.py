"""The demo learns, draws, compiles, packages and compares; a disagreement makes it fail."""

import json
import sys

import pytest
import torch

from internimage.tasks import demo
from internimage.tasks.cli import main
from internimage.tasks.images import read_image

pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
pytest.importorskip("matplotlib", reason="the demo draws charts")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> demo.Digits:
    return demo.load_digits(CPU)


def test_the_split_is_stratified_repeatable_and_normalised(digits):
    assert len(digits.train_labels) + len(digits.test_labels) == 1797
    assert len(digits.test_labels) == 360
    whole = torch.cat([digits.train_labels, digits.test_labels]).bincount(minlength=10)
    assert ((digits.test_labels.bincount(minlength=10) - whole / 5).abs() < 1).all()
    assert digits.train_images.mean().item() == pytest.approx(0, abs=1e-4)
    assert digits.train_images.std().item() == pytest.approx(1, abs=1e-4)
    assert digits.train_images.min().item() == pytest.approx(digits.background, abs=1e-4)
    again = demo.load_digits(CPU)
    torch.testing.assert_close(again.test_images, digits.test_images)
    assert digits.test_pictures.shape == (360, demo.SIZE, demo.SIZE, 3)
    assert digits.test_pictures.max() == 255


def test_augmentation_keeps_the_ink_and_moves_it(digits):
    torch.manual_seed(0)
    images = digits.train_images[:200]
    moved = demo._augment(images, digits.background)
    assert moved.shape == images.shape
    assert (moved - images).abs().mean() > 0.1
    ink = [(x - digits.background).sum().item() for x in (images, moved)]
    assert ink[1] == pytest.approx(ink[0], rel=0.1)
    assert moved.min().item() >= digits.background - 1e-4


@pytest.mark.once
def test_a_short_run_learns_and_all_ways_of_running_agree(tmp_path, capfd):
    output = tmp_path / "run"
    assert main(["demo", "--epochs", "2", "--output", str(output), "--device", "cpu"]) == 0
    printed = capfd.readouterr().out
    metrics = json.loads((output / "metrics.json").read_text())
    ways = ["eager", "compiled", "packaged"]
    assert list(metrics["accuracy"]) == ways
    assert len(set(metrics["accuracy"].values())) == 1
    accuracy = metrics["accuracy"]["eager"]
    assert accuracy > 0.3  # two epochs; chance is 0.1
    assert accuracy == pytest.approx(1 - len(metrics["errors_at"]) / 360)
    assert metrics["history"]["accuracies"][-1] == pytest.approx(accuracy)
    assert metrics["history"]["losses"][-1] < metrics["history"]["losses"][0]
    for way in ways:
        assert metrics["images_per_second"][way] > 0
        assert metrics["differs_from_eager_at"][way] == []
        assert any(line.startswith(way) and f"{accuracy:.2%}" in line for line in printed.splitlines())
    for name in ("curve.png", "predictions.png", "sampling_points.png"):
        assert read_image(output / name).std() > 5
    assert sorted(path.name for path in output.iterdir()) == [
        "curve.png",
        "metrics.json",
        "model.pt2",
        "predictions.png",
        "sampling_points.png",
    ]


def test_labels_that_differ_are_listed_and_fail_the_demo(tmp_path, monkeypatch, capsys):
    labels = [0] * 360
    other = [*labels]
    other[7] = other[300] = 1
    results = {"eager": demo.Result(labels, 1.0), "compiled": demo.Result(other, 1.0)}
    monkeypatch.setattr(demo, "train", lambda *_: demo.History([1.0], [0.1]))
    monkeypatch.setattr(demo, "compile_model", lambda model, _: model)
    monkeypatch.setattr(demo.deploy, "package", lambda _, path: path)
    monkeypatch.setattr(demo, "compare", lambda *_: results)
    assert main(["demo", "--output", str(tmp_path)]) == 1
    assert "compiled and eager disagree on the images [7, 300]" in capsys.readouterr().err
    assert json.loads((tmp_path / "metrics.json").read_text())["differs_from_eager_at"]["compiled"] == [7, 300]


@pytest.mark.parametrize("module", ["sklearn", "matplotlib"])
def test_a_missing_part_is_named_with_its_command_before_the_work_starts(module, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(demo, "train", lambda *_: pytest.fail("trained"))
    assert main(["demo", "--output", str(tmp_path)]) == 1
    assert 'pip install "internimage[demo]"' in capsys.readouterr().err


def test_a_package_process_that_dies_is_an_error(tmp_path):
    missing = tmp_path / "missing.pt2"
    with (
        demo._package_process(missing, torch.zeros(1, 1, 64, 64)) as run_package,
        pytest.raises(ValueError, match="ended early"),
    ):
        run_package()
