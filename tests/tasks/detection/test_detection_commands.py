"""`internimage eval detection` and `internimage predict detection` on made pictures and videos, with saved weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from detection_processes import evaluate_share, process
from fresh_detectors import CLASSES, HEIGHT, WIDTH, picture, save_fresh
from pycocotools import mask as coco_masks

from internimage.tasks import cli
from internimage.tasks.detection.coco_format import result_entries
from internimage.tasks.detection.pycoco import quiet
from internimage.tasks.images import read_image, write_image
from internimage.tasks.training.distributed import Processes
from internimage.tasks.videos import new_video, open_video


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mask.safetensors"
    save_fresh(path, "mask_rcnn_internimage_atto_small")
    return path


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Weights, and five pictures whose objects are what these weights find."""
    folder = tmp_path_factory.mktemp("data")
    trained = save_fresh(folder / "boxes.safetensors", "faster_rcnn_internimage_atto_small")
    data = folder / "data"
    (data / "annotations").mkdir(parents=True)
    (data / "images").mkdir()
    images, annotations = [], []
    for number in range(5):
        write_image(data / "images" / f"{number}.png", picture(number))
        images.append({"id": 40 - number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH})
        for entry in result_entries(trained.predict(picture(number)), 40 - number, CLASSES.category_ids):
            area = entry["bbox"][2] * entry["bbox"][3]
            annotations.append({**entry, "id": len(annotations) + 1, "iscrowd": 0, "area": area})
    categories = [{"id": i, "name": n} for i, n in zip(CLASSES.category_ids, CLASSES.names, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (data / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return folder / "boxes.safetensors", data


def command(*words: Any) -> int:
    return cli.main([str(word) for word in words])


def evaluate(checked: tuple[Path, Path], *options: Any) -> int:
    words = ("eval", "detection", "--data", checked[1], "--checkpoint", checked[0], "--workers", "0", "--device", "cpu")
    return command(*words, *options)


def test_what_the_model_finds_is_right_where_it_is_the_truth(
    checked: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(checked, "--json", "--output", tmp_path, "--pictures") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("unreadable") == []
    assert printed == json.loads((tmp_path / "metrics.json").read_text())
    assert printed["pictures"] == 5
    assert printed["box_ap"] > 0.99
    for name in ("curves.png", "confusion.png", "samples.png"):
        assert min(read_image(tmp_path / name).shape[:2]) > 200
    assert "box AP, IoU 0.5 to 0.95" in (tmp_path / "report.txt").read_text()
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [f"{i}.png" for i in range(5)]
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with quiet():
        truth = COCO(str(checked[1] / "annotations" / "instances_val.json"))
        other = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "bbox")
        other.evaluate()
        other.accumulate()
        other.summarize()
    assert other.stats[0] == pytest.approx(printed["box_ap"], abs=1e-3)  # our boxes are float32


def test_two_processes_count_every_picture_once(checked: tuple[Path, Path], tmp_path: Path) -> None:
    results = mp.get_context("spawn").SimpleQueue()
    mp.spawn(process, (tmp_path / "store", *checked, results), nprocs=2)
    found = dict(results.get() for _ in range(2))
    alone = evaluate_share(*checked, Processes(torch.device("cpu")))
    assert alone["pictures"] == 5  # one of the processes sees the last one twice
    assert found == {0: alone, 1: alone}


def test_a_picture_that_can_not_be_read_is_named_and_left_out(
    checked: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    for number in range(1, 5):
        (tmp_path / "images" / f"{number}.png").symlink_to(checked[1] / "images" / f"{number}.png")
    (tmp_path / "images" / "0.png").write_bytes(b"not a picture")
    (tmp_path / "annotations").symlink_to(checked[1] / "annotations")
    assert evaluate((checked[0], tmp_path)) == 1
    out = capsys.readouterr().out
    assert "left out 1 pictures that can't be read" in out
    assert "0.png: not a picture" in out
    assert "pictures                                 4" in out


def test_other_classes_than_the_models_are_refused(
    checked: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for names, message in (
        (["disc", "cube"], "class 1 is 'cube' to the model and 'square'"),
        (["disc"], "the model 1"),
    ):
        (tmp_path / "classes.json").write_text(json.dumps(names))
        assert evaluate(checked, "--classes", tmp_path / "classes.json") == 1
        assert message in capsys.readouterr().err


def test_pictures_and_videos_are_annotated_and_what_is_none_is_said(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / "a.png", picture(1))
    with new_video(tmp_path / "in" / "a.mp4", 10) as video:
        for seed in range(3):
            video.write(picture(seed))
    for name in ("broken.png", "broken.avi"):
        (tmp_path / "in" / name).write_bytes(b"neither picture nor video")
    words = ["predict", "detection", tmp_path / "in", tmp_path / "no.jpg", "--checkpoint", weights, "--device", "cpu"]
    assert command(*words, "--output", tmp_path / "out", "--json", "--max-detections", "7") == 1
    printed = capsys.readouterr()
    assert "3 of 5 files could not be read" in printed.err
    for name in ("broken.png", "broken.avi", "no.jpg"):
        assert f"{name}: " in printed.err
    of_video, of_picture = json.loads(printed.out)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-2.json", "a-2.png", "a.json", "a.mp4"]
    assert json.loads((tmp_path / "out" / "a.json").read_text()) == of_video
    assert json.loads((tmp_path / "out" / "a-2.json").read_text()) == of_picture
    assert len(of_video["frames"]) == 3
    assert of_video["frames_per_second"] == 10
    for objects in (*of_video["frames"], of_picture["objects"]):
        assert 0 < len(objects) <= 7
        for entry in objects:
            assert dict(zip(CLASSES.names, CLASSES.category_ids, strict=True))[entry["name"]] == entry["category_id"]
            x, y, width, height = entry["bbox"]
            assert min(x, y, width, height) >= 0
            assert (x + width, y + height) <= (WIDTH + 1e-3, HEIGHT + 1e-3)
            assert coco_masks.decode(entry["segmentation"]).shape == (HEIGHT, WIDTH)
    with open_video(tmp_path / "out" / "a.mp4") as (_, frames):
        assert [frame.shape for frame in frames] == [(HEIGHT, WIDTH, 3)] * 3
    assert max(read_image(tmp_path / "out" / "a-2.png").shape) >= 640


def test_the_threshold_decides_what_is_named(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "a.png", picture(1))
    words = ["predict", "detection", tmp_path / "a.png", "--checkpoint", weights, "--device", "cpu", "--output"]
    assert command(*words, tmp_path) == 1
    assert "lies in the folder for results" in capsys.readouterr().err
    words.append(tmp_path / "found")
    numbers = []
    for threshold in (0, 1):
        assert command(*words, "--threshold", threshold) == 0
        out = capsys.readouterr().out
        numbers.append(int(out.split(": ")[1].split()[0]))
        assert (" disc" in out or " square" in out) == (threshold == 0)
    assert numbers[0] > numbers[1] == 0
    assert command(*words, "--threshold", "2") == 1
    assert "--threshold must be from 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-detections", "0"], "--max-detections must be at least 1"),
        (["--test-scale", "8"], "--test-scale takes two numbers"),
        (["--model", "mask_rcnn_internimage_atto"], "mask_rcnn_internimage_atto_small"),
        (["--pictures"], "--pictures needs a folder"),
        (["--workers", "-1"], "--workers must be at least 0"),
        (["--threshold", "nan"], "--threshold must be from 0 to 1"),
    ],
)
def test_options_that_can_not_be_are_refused(
    checked: tuple[Path, Path], options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(checked, *options) == 1
    assert message in capsys.readouterr().err
