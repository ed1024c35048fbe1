"""`internimage eval detection` on data laid out as LVIS: its figures equal their definition in plain Python."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fresh_detectors import HEIGHT, WIDTH, picture, save_fresh

from internimage.tasks import cli
from internimage.tasks.detection.class_names import Classes
from internimage.tasks.detection.coco_format import result_entries
from internimage.tasks.images import write_image

pytestmark = pytest.mark.once

CLASSES = Classes(tuple("abcdef"), (2, 3, 5, 7, 11, 13))
FREQUENCIES = "fcrrcf"
PICTURES = 6
THRESHOLDS = np.linspace(0.5, 0.95, 10)
Entry = dict[str, Any]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, and pictures of which some detections of these weights, a bit moved, are the objects."""
    folder = tmp_path_factory.mktemp("lvis")
    trained = save_fresh(folder / "weights.safetensors", "faster_rcnn_internimage_atto_small", CLASSES)
    rng = np.random.default_rng(5)
    images: list[Entry] = []
    annotations: list[Entry] = []
    (folder / "val2017").mkdir()
    for number in range(PICTURES):
        write_image(folder / "val2017" / f"{number}.png", picture(number))
        classes = rng.permutation(CLASSES.category_ids).tolist()
        images.append({"id": 90 - number, "height": HEIGHT, "width": WIDTH, "neg_category_ids": classes[:2]})
        images[-1] |= {"coco_url": f"http://images.cocodataset.org/val2017/{number}.png"}
        images[-1]["not_exhaustive_category_ids"] = classes[4:5]
        for entry in result_entries(trained.predict(picture(number)), 90 - number, CLASSES.category_ids):
            category = entry["category_id"] if rng.random() < 0.7 else int(rng.choice(classes))
            if category in classes[2:5] and rng.random() < 0.3:
                x, y, width, height = (max(side, 0) for side in np.rint(entry["bbox"] + rng.normal(0, 1.5, 4)).tolist())
                box = [x, y, min(width, WIDTH - x), min(height, HEIGHT - y)]
                row = {"id": len(annotations) + 1, "image_id": entry["image_id"], "category_id": category}
                if min(box[2:]) > 0:
                    annotations.append(row | {"bbox": box, "area": box[2] * box[3]})
    categories = [{"id": i, "name": n} for i, n in zip(CLASSES.category_ids, CLASSES.names, strict=True)]
    (folder / "truth.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return folder


def evaluate(data: Path, notes: list[Entry], output: Path) -> Entry:
    """The figures with these notes on the categories."""
    content = json.loads((data / "truth.json").read_text())
    for category, note in zip(content["categories"], notes, strict=True):
        category |= note
    (data / "lvis_v1_val.json").write_text(json.dumps(content))
    words = f"eval detection --data {data} --checkpoint {data / 'weights.safetensors'} --workers 0 --device cpu"
    assert cli.main([*words.split(), "--output", str(output)]) == 0
    figures: Entry = json.loads((output / "metrics.json").read_text())
    return figures


def overlap(a: list[float], b: list[float]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def average_precision(truth: Entry, results: list[Entry], category: int, threshold: float) -> float | None:
    """Of one class at one threshold, picture by picture (arXiv 1908.03195, section 3); None without an object."""
    judged = []
    objects = 0
    for image in truth["images"]:
        boxes, found = (
            [one for one in rows if (one["image_id"], one["category_id"]) == (image["id"], category)]
            for rows in (truth["annotations"], results)
        )
        if not boxes and category not in image["neg_category_ids"] + image["not_exhaustive_category_ids"]:
            continue  # nobody looked for it
        objects += len(boxes)
        free = [one["bbox"] for one in boxes]
        for one in sorted(found, key=lambda one: -one["score"]):
            nearest = max(free, key=lambda box: overlap(box, one["bbox"]), default=None)
            right = nearest is not None and overlap(nearest, one["bbox"]) >= threshold
            if right:
                free.remove(nearest)
            if right or category not in image["not_exhaustive_category_ids"]:
                judged.append((-one["score"], right))
    if not objects:
        return None
    judged.sort(key=lambda one: one[0])
    number, points = 0, []
    for count, (_, right) in enumerate(judged, 1):
        number += right
        points.append((number / objects, number / count))
    recalls = np.linspace(0, 1, 101)
    return float(np.mean([max((p for r, p in points if r >= least), default=0) for least in recalls]))


def test_figures_of_rare_common_and_frequent_classes_equal_their_definition(data: Path, tmp_path: Path) -> None:
    figures = evaluate(data, [{"frequency": one} for one in FREQUENCIES], tmp_path)
    truth, results = (json.loads(path.read_text()) for path in (data / "truth.json", tmp_path / "results.json"))
    of_class = {}
    for category, threshold in product(CLASSES.category_ids, THRESHOLDS):
        one = average_precision(truth, results, category, threshold)
        of_class.setdefault(category, []).append(one)
    assert all(one is not None for row in of_class.values() for one in row)
    groups = dict(zip(CLASSES.category_ids, FREQUENCIES, strict=True))
    expected = {"box_ap": np.mean(list(of_class.values()))}
    for group in "rcf":
        expected[f"box_ap{group}"] = np.mean([row for category, row in of_class.items() if groups[category] == group])
    assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert len({round(value, 3) for value in expected.values()}) == 4
    assert 0.05 < expected["box_ap"] < 0.95
    assert "box AP of rare classes" in (tmp_path / "report.txt").read_text()


def test_groups_follow_the_numbers_of_pictures_where_no_frequency_is_told(data: Path, tmp_path: Path) -> None:
    told = evaluate(data, [{"frequency": one, "image_count": 1} for one in FREQUENCIES], tmp_path)
    counted = evaluate(data, [{"image_count": {"r": 10, "c": 100, "f": 101}[one]} for one in FREQUENCIES], tmp_path)
    assert counted == told


def test_what_is_told_of_some_classes_only_gives_no_groups(data: Path, tmp_path: Path) -> None:
    figures = evaluate(data, [{"frequency": one} for one in "rcfrc"] + [{"frequency": "x"}], tmp_path)
    assert "box_apr" not in figures
    assert "some categories have neither a frequency nor an image_count" in figures["note"]
    assert figures["note"] in (tmp_path / "report.txt").read_text()
