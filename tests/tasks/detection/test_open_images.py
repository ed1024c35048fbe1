"""`internimage eval detection` on data laid out as Open Images: its figures equal their definition in plain Python."""

import csv
import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fresh_detectors import HEIGHT, WIDTH, picture, save_fresh

from internimage.tasks import cli
from internimage.tasks.detection.class_names import Classes
from internimage.tasks.detection.hierarchy import read_hierarchy
from internimage.tasks.folders import DatasetError
from internimage.tasks.images import write_image

pytestmark = pytest.mark.once

KEYS = [f"/m/{letter}" for letter in "abcdef"]
LABELS = {key: label for label, key in enumerate(KEYS)}
CLASSES = Classes(tuple("ABCDEF"), (1, 2, 3, 4, 5, 6))
HIERARCHY = "bbox_labels_600_hierarchy.json"
Node = dict[str, Any]


def node(letter: str, *kinds: Node, **more: Any) -> Node:
    return {"LabelName": f"/m/{letter}", **({"Subcategory": list(kinds)} if kinds else {}), **more}


# F stands in two places, Z is no class of the data, C is a part of B, and the root is everything.
TREE = node(
    "root",
    node("a", node("c"), node("f")),
    node("b", node("z", node("d", node("f"))), Part=[node("c")]),
    node("e"),
)


def below(tree: Node) -> list[str]:
    return [key for kind in tree.get("Subcategory", []) for key in (kind["LabelName"], *below(kind))]


def kinds(key: str, tree: Node = TREE) -> set[str]:
    """All classes that are of this one."""
    found = {key, *below(tree)} if tree["LabelName"] == key else set()
    return found.union(*(kinds(key, one) for one in tree.get("Subcategory", [])))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, and pictures of which some detections of these weights, a bit moved, are the objects."""
    folder = tmp_path_factory.mktemp("open_images")
    trained = save_fresh(folder / "weights.safetensors", "faster_rcnn_internimage_atto_small", CLASSES)
    rng = np.random.default_rng(3)
    boxes = ["ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf"]
    labels = ["ImageID,Source,LabelName,Confidence"]
    (folder / "validation").mkdir()
    for number in range(5):
        write_image(folder / "validation" / f"p{number}.jpg", picture(number))
        found = trained.predict(picture(number))
        marked, allowed = set(), set(rng.permutation(KEYS)[:3])
        for label, corners in zip(found.labels.tolist(), found.boxes.tolist(), strict=True):
            if rng.random() < 0.5:
                key = KEYS[label] if rng.random() < 0.7 else str(rng.choice(KEYS))
                x1, y1, x2, y2 = np.rint(np.clip(corners + rng.normal(0, 2, 4), 0, [WIDTH, HEIGHT, WIDTH, HEIGHT]))
                if x1 < x2 and y1 < y2 and key in allowed:
                    shares = [x1 / WIDTH, x2 / WIDTH, y1 / HEIGHT, y2 / HEIGHT]
                    boxes.append(",".join(map(str, [f"p{number}", key, *shares, int(rng.random() < 0.2)])))
                    marked.add(key)
        labels += [f"p{number},verification,{key},{int(key in marked)}" for key in rng.permutation(KEYS)[:2]]
    (folder / "validation-annotations-bbox.csv").write_text("\n".join(boxes))
    (folder / "validation-annotations-human-imagelabels-boxable.csv").write_text("\n".join(labels))
    names = zip(KEYS, CLASSES.names, strict=True)
    (folder / "class-descriptions-boxable.csv").write_text("\n".join(f"{key},{name}" for key, name in names))
    (folder / "tree.json").write_text(json.dumps(TREE))
    return folder


def command(data: Path, *options: str) -> int:
    words = f"eval detection --data {data} --checkpoint {data / 'weights.safetensors'} --workers 0 --device cpu"
    return cli.main([*words.split(), *options])


def evaluate(data: Path, output: Path, *options: str) -> Any:
    assert command(data, "--output", str(output), *options) == 0
    return json.loads((output / "metrics.json").read_text())


def shared(a: list[float], b: list[float], *, of_first: bool = False) -> float:
    """Intersection over union, or over the first box."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    area_a, area_b = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    both = max(width, 0) * max(height, 0)
    return both / (area_a if of_first else area_a + area_b - both)


def largest(values: Iterable[float]) -> tuple[int, float]:
    return max(enumerate(values), key=lambda pair: pair[1], default=(-1, 0.0))


def judge(found: list[Node], single: list[list[float]], groups: list[list[float]]) -> list[tuple[float, bool]]:
    """The detections of one class in one picture that count, and whether they are right."""
    judged = []
    taken: set[int] = set()
    best: dict[int, float] = {}
    for one in sorted(found, key=lambda one: -one["score"]):
        x, y, width, height = one["bbox"]
        corners = [x, y, x + width, y + height]
        nearest, overlap = largest(shared(corners, box) for box in single)
        group, inside = largest(shared(corners, box, of_first=True) for box in groups)
        if overlap >= 0.5 and nearest not in taken:
            taken.add(nearest)
            judged.append((one["score"], True))
        elif inside >= 0.5:
            best.setdefault(group, one["score"])
        else:
            judged.append((one["score"], False))
    return judged + [(score, True) for score in best.values()]


def average_precision(data: Path, results: list[Node], key: str, *, expanded: bool, detections: bool) -> float | None:
    """Of one class: VOC's since 2010, over the pictures where it was verified; None without an object."""
    of_class, above = {key}, {key}
    if expanded:
        of_class, above = kinds(key), {one for one in KEYS if key in kinds(one)}
    found_as = {LABELS[one] + 1 for one in (of_class if detections else {key}) if one in LABELS}
    tables = (data / "validation-annotations-bbox.csv", data / "validation-annotations-human-imagelabels-boxable.csv")
    boxes, labels = (list(csv.DictReader(table.read_text().splitlines())) for table in tables)
    boxes = [row for row in boxes if row["LabelName"] in of_class]
    verified = [row for row in labels if row["LabelName"] in (of_class if row["Confidence"] == "1" else above)]
    if not boxes:
        return None
    judged = []
    for image in sorted({row["ImageID"] for row in boxes + verified}):
        sides = {"XMin": WIDTH, "YMin": HEIGHT, "XMax": WIDTH, "YMax": HEIGHT}
        single, groups = (
            [
                [float(row[side]) * length for side, length in sides.items()]
                for row in boxes
                if (row["ImageID"], row["IsGroupOf"]) == (image, group)
            ]
            for group in "01"
        )
        found = [one for one in results if one["image_id"] == image and one["category_id"] in found_as]
        judged += judge(found, single, groups)
    right, points = 0, []
    for count, (_, one) in enumerate(sorted(judged, key=lambda one: -one[0]), 1):
        right += one
        points.append((right / len(boxes), right / count))
    recalls = sorted({0.0, *(recall for recall, _ in points)})
    return sum((high - low) * max(p for r, p in points if r >= high) for low, high in pairwise(recalls))


@pytest.mark.parametrize(("expanded", "detections"), [(False, False), (True, False), (True, True)])
def test_figures_equal_their_definition(data: Path, tmp_path: Path, expanded: bool, detections: bool) -> None:
    options = ["--hierarchy", str(data / "tree.json")] if expanded else []
    report = evaluate(data, tmp_path, *options, *(["--expand-detections"] if detections else []))
    results = json.loads((tmp_path / "results.json").read_text())
    expected = [average_precision(data, results, key, expanded=expanded, detections=detections) for key in KEYS]
    figures = [row.get("ap50") for row in report["per_class"]]
    assert figures == pytest.approx(expected, abs=1e-9)
    known = [one for one in expected if one is not None]
    assert report["ap50"] == pytest.approx(np.mean(known))
    assert sum(one > 0.1 for one in known) >= 2
    assert ("are not expanded by their hierarchy" in report.get("note", "")) == (not expanded)


def test_the_hierarchy_beside_the_annotations_is_used(data: Path, tmp_path: Path) -> None:
    for path in data.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / HIERARCHY).symlink_to(data / "tree.json")
    assert evaluate(tmp_path, tmp_path / "a") == evaluate(data, tmp_path / "b", "--hierarchy", str(data / "tree.json"))


def test_a_class_is_a_kind_of_those_above_it_but_not_of_what_it_is_a_part_of(data: Path) -> None:
    above: list[set[int]] = [set(), set(), {0}, {1}, set(), {0, 1, 3}]
    assert read_hierarchy(data / "tree.json", LABELS) == tuple(map(frozenset, above))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "isn't JSON, or damaged"),
        ("[]", "isn't a hierarchy of classes, expected nested objects with LabelName and Subcategory"),
        ('{"Subcategory": [{"Name": "/m/a"}]}', "isn't a hierarchy of classes"),
        ('{"Subcategory": [{"LabelName": "/m/q"}]}', "has none of the 6 classes of the data"),
        (None, "no such file of a hierarchy"),
    ],
)
def test_files_that_are_no_hierarchy_are_named(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / HIERARCHY).write_text(content)
    with pytest.raises(DatasetError, match=message):
        read_hierarchy(tmp_path / HIERARCHY, LABELS)


def test_detections_are_not_expanded_without_a_hierarchy(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(data, "--expand-detections") == 1
    assert "--expand-detections needs the hierarchy" in capsys.readouterr().err
