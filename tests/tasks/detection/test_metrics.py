"""Metrics equal their definitions in plain Python, pycocotools on files, and what is computed by hand."""

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from detection_cases import SIZE, case, found, objects, perfect, random_cases
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from internimage.tasks.detection.average_precision import Curve, area, eleven_points
from internimage.tasks.detection.cases import Case
from internimage.tasks.detection.coco_format import result_entries
from internimage.tasks.detection.coco_metrics import coco_report, lvis_report
from internimage.tasks.detection.crowd_metrics import crowd_report
from internimage.tasks.detection.matching import overlaps
from internimage.tasks.detection.metrics import judge
from internimage.tasks.detection.objects import Verified
from internimage.tasks.detection.open_images_metrics import open_images_report
from internimage.tasks.detection.pycoco import quiet
from internimage.tasks.detection.voc_metrics import voc_report

pytestmark = pytest.mark.once

METRICS = ("coco", "lvis", "voc", "crowd_human", "open_images")
CATEGORIES = (3, 7, 11)  # ids of the source


def iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)


def voc_by_definition(cases: list[Case], label: int) -> tuple[float, float] | None:
    """Area under the curve and mean at 11 recalls, step by step over the ranked detections of one class."""

    def overlap(a: list[float], b: list[float]) -> float:  # corners are pixels that belong to the box
        return iou([a[0], a[1], a[2] + 1, a[3] + 1], [b[0], b[1], b[2] + 1, b[3] + 1])

    ranked = []
    positives = 0
    for number, one in enumerate(cases):
        positives += sum(1 for i, k in enumerate(one.truth.labels) if k == label and not one.truth.ignored[i])
        for place, score in enumerate(one.found.scores.tolist()):
            if one.found.labels[place] == label:
                ranked.append((-score, number, place))
    if not positives:
        return None
    taken, points, right, wrong = set(), [], 0, 0
    for _, number, place in sorted(ranked):
        one, box = cases[number], cases[number].found.boxes[place].tolist()
        mine = [i for i, k in enumerate(one.truth.labels) if k == label]
        nearest = max(mine, key=lambda i: overlap(box, one.truth.boxes[i].tolist()), default=None)
        if nearest is None or overlap(box, one.truth.boxes[nearest].tolist()) < 0.5:
            wrong += 1
        elif one.truth.ignored[nearest]:
            continue
        elif (number, nearest) in taken:
            wrong += 1
        else:
            taken.add((number, nearest))
            right += 1
        points.append((right / positives, right / (right + wrong)))
    recalls = sorted({0.0, *(recall for recall, _ in points)})
    areas = [(high - low) * max(p for r, p in points if r >= high) for low, high in pairwise(recalls)]
    eleven = [max((p for r, p in points if r >= t / 10 - 1e-9), default=0) for t in range(11)]
    return sum(areas), sum(eleven) / 11


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_voc_follows_its_definition(seed: int) -> None:
    cases = random_cases(seed)
    expected = [voc_by_definition(cases, label) for label in range(3)]
    if not any(expected):
        return
    report = voc_report(cases, 3)
    for row, figures in zip(report.per_class, expected, strict=True):
        assert list(row.figures.values()) == pytest.approx(figures or ())
    known = [figures for figures in expected if figures]
    assert report.figures["ap50"] == pytest.approx(np.mean([a for a, _ in known]))
    assert report.figures["ap50_11_points"] == pytest.approx(np.mean([e for _, e in known]))


def test_the_area_and_the_eleven_points_of_a_curve_by_hand() -> None:
    curve = Curve(np.array([0.25, 0.25, 0.5]), np.array([1.0, 0.5, 2 / 3]))
    assert area(curve) == pytest.approx(0.25 * 1 + 0.25 * 2 / 3)
    assert eleven_points(curve) == pytest.approx((3 * 1 + 3 * 2 / 3) / 11)
    assert area(Curve(np.zeros(0), np.zeros(0))) == eleven_points(Curve(np.zeros(0), np.zeros(0))) == 0


def coco_by_files(cases: list[Case], folder: Any, kind: str) -> list[float]:
    """COCO's twelve figures as pycocotools computes them from files."""
    images = [{"id": one.image_id, "height": SIZE[0], "width": SIZE[1]} for one in cases]
    truth: list[Any] = []
    results: list[Any] = []
    for one in cases:
        for i, (x1, y1, x2, y2) in enumerate(one.truth.boxes.tolist()):
            row = {"id": len(truth) + 1, "image_id": one.image_id, "category_id": CATEGORIES[one.truth.labels[i]]}
            row |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(one.truth.areas[i])}
            row |= {"iscrowd": int(one.truth.ignored[i])}
            if one.truth.masks is not None:
                mask = one.truth.masks[i]
                row["segmentation"] = {"size": mask["size"], "counts": mask["counts"].decode()}
            truth.append(row)
        for entry in result_entries(one.found, one.image_id, CATEGORIES):
            if kind == "segm":  # with boxes, pycocotools would take their areas
                del entry["bbox"]
            results.append(entry)
    categories = [{"id": number, "name": str(number)} for number in CATEGORIES]
    (folder / "truth.json").write_text(json.dumps({"images": images, "annotations": truth, "categories": categories}))
    (folder / "results.json").write_text(json.dumps(results))
    with quiet():
        coco = COCO(str(folder / "truth.json"))
        evaluator = COCOeval(coco, coco.loadRes(str(folder / "results.json")), kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    stats: list[float] = evaluator.stats.tolist()
    return stats


@pytest.mark.parametrize("seed", range(6))
def test_coco_is_what_pycocotools_says_of_files_written_by_hand(seed: int, tmp_path: Any) -> None:
    cases = random_cases(seed, pictures=6, masks=True)
    figures = coco_report(cases[::-1], 3, masks=True).figures  # in whatever order
    for kind, iou_type in (("box", "bbox"), ("mask", "segm")):
        stats = coco_by_files(cases, tmp_path, iou_type)
        for name, place in {"ap": 0, "ap50": 1, "ap75": 2, "aps": 3, "apm": 4, "apl": 5, "ar": 8}.items():
            assert figures.get(f"{kind}_{name}", -1) == pytest.approx(stats[place], abs=1e-12), (kind, name)


def test_coco_counts_as_many_detections_as_it_is_told() -> None:
    boxes = [[x, 0, x + 9, 9] for x in range(0, 150, 10)]
    cases = [case(objects(boxes), found(boxes, np.linspace(1, 0.5, 15)))]
    assert coco_report(cases, 1, masks=False, limit=5).figures["box_ar"] == pytest.approx(1 / 3)
    assert coco_report(cases, 1, masks=False, limit=15).figures["box_ar"] == 1


def takes_from_another(one: Case) -> bool:
    """Whether half of an object lies in another of its class, one of them a group: its detection may be that one's."""
    truth = one.truth
    inside = overlaps(truth.boxes, truth.boxes, np.ones(len(truth.boxes), bool))
    alike = (truth.labels[:, None] == truth.labels) & (truth.ignored[:, None] | truth.ignored)
    return bool((inside >= 0.5)[alike & ~np.eye(len(inside), dtype=bool)].any())


@pytest.mark.parametrize("metric", METRICS)
@given(st.integers(0, 2**32 - 1))
@settings(max_examples=12, deadline=None)
def test_the_truth_itself_is_perfect(metric: Any, seed: int) -> None:
    cases = perfect(random_cases(seed, masks=True))
    if all(one.truth.ignored.all() for one in cases):
        return
    if metric == "open_images" and any(map(takes_from_another, cases)):
        return
    report = judge(metric, cases, 3, limit=100)
    for name, value in report.figures.items():
        assert value == pytest.approx(1e-10 if name == "mr" else 1), name


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_found_is_nothing_and_never_nan(metric: Any) -> None:
    cases = [case(objects([[0, 0, 9, 9]], [1]), found([], []))]
    report = judge(metric, cases, 3, limit=100)
    assert report.figures[report.headline] == 0
    assert report.absent == [0, 2]
    json.dumps(report.to_json(["a", "b", "c"]), allow_nan=False)
    table = "\n".join(report.table(["a", "b", "c"]))
    assert "without objects, left out of the means: a; c" in table
    assert "nan" not in table


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("boxes", [[], [[0, 0, 9, 9]]])
def test_data_without_objects_has_no_figures(metric: Any, boxes: Any) -> None:
    if metric == "open_images" and boxes:
        return  # a group counts there
    cases = [case(objects(boxes, ignored=[True] * len(boxes)), found([[0, 0, 9, 9]], [0.9]))]
    with pytest.raises(ValueError, match="none of the pictures holds an object that counts"):
        judge(metric, cases, 1, limit=100)


def test_names_must_be_as_many_as_classes() -> None:
    report = voc_report([case(objects([[0, 0, 9, 9]]), found([], []))], 1)
    for method in (report.table, report.to_json):
        with pytest.raises(ValueError, match="expected 1 names, one a class, got 2"):
            method(["a", "b"])


LEFT, RIGHT, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 60, 60]


def test_crowd_figures_by_hand() -> None:
    cases = [
        case(objects([LEFT, RIGHT]), found([LEFT, FAR, RIGHT], [0.9, 0.8, 0.7])),
        case(objects([LEFT, RIGHT]), found([LEFT], [0.6]), 1),
    ]
    figures = crowd_report(cases, 1).figures
    # Recalls 1/4, 1/4, 2/4, 3/4 at precisions 1, 1/2, 2/3, 3/4.
    assert figures["ap50"] == pytest.approx(0.25 + 0.25 * (1 / 2 + 2 / 3) / 2 + 0.25 * (2 / 3 + 3 / 4) / 2)
    # 0.5 false ones a picture from the second detection on: seven of the nine numbers are below.
    assert figures["mr"] == pytest.approx((0.75**7 * 0.25**2) ** (1 / 9))
    # All four detections: 2 pairs of 3 and 2, 1 pair of 1 and 2.
    assert figures["ji"] == pytest.approx((2 / 3 + 1 / 2) / 2)


def crowd_by_definition(cases: list[Case]) -> tuple[float, float, float] | None:
    """AP, MR^-2 and Jaccard index of one class, step by step over lists (Dollár et al. 2012; arXiv 1805.00123)."""

    def lies_in(a: list[float], b: list[float]) -> float:  # share of the first box
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        return max(width, 0) * max(height, 0) / ((a[2] - a[0]) * (a[3] - a[1]))

    ranked: list[tuple[float, bool]] = []
    boxes = [(one.truth.boxes.tolist(), one.truth.ignored.tolist()) for one in cases]
    persons = [[box for box, ignored in zip(*both, strict=True) if not ignored] for both in boxes]
    regions = [[box for box, ignored in zip(*both, strict=True) if ignored] for both in boxes]
    objects = sum(map(len, persons))
    if not objects:
        return None
    for number, one in enumerate(cases):
        free = list(persons[number])
        for box, score in zip(one.found.boxes.tolist(), one.found.scores.tolist(), strict=True):
            nearest = max(free, key=lambda person: iou(box, person), default=None)
            if nearest is not None and iou(box, nearest) >= 0.5:
                free.remove(nearest)
                ranked.append((score, True))
            elif all(lies_in(box, region) < 0.5 for region in regions[number]):
                ranked.append((score, False))
    ranked.sort(key=lambda pair: -pair[0])
    points = []  # recall, precision, false detections a picture
    for count in range(1, len(ranked) + 1):
        right = sum(hit for _, hit in ranked[:count])
        points.append((right / objects, right / count, (count - right) / len(cases)))
    precision = (
        sum((r2 - r1) * (p1 + p2) / 2 for (r1, p1, _), (r2, p2, _) in pairwise([(0, *points[0][1:]), *points]))
        if points
        else 0.0
    )
    missed = []
    for exponent in range(9):
        reached = [r for r, _, false in points if false >= 10 ** (-2 + exponent / 4)]
        recall = reached[0] if reached else points[-1][0] if points else 0.0
        missed.append(max(1 - recall, 1e-10))
    best = 0.0
    for limit in np.arange(10, dtype=np.float32) / np.float32(10):
        ratios = []
        for number, one in enumerate(cases):
            sure = [
                box for box, score in zip(one.found.boxes.tolist(), one.found.scores, strict=True) if score >= limit
            ]
            near = [[place for place, person in enumerate(persons[number]) if iou(box, person) >= 0.5] for box in sure]
            outside = [all(lies_in(box, region) < 0.5 for region in regions[number]) for box in sure]
            pairs, wrong = most_pairs(near, outside, frozenset())
            if wrong + len(persons[number]):
                ratios.append(pairs / (wrong + len(persons[number])))
        best = max(best, float(np.mean(ratios)) if ratios else 0.0)
    return precision, float(np.prod(missed) ** (1 / 9)), best


def most_pairs(near: list[list[int]], outside: list[bool], taken: frozenset[int]) -> tuple[int, int]:
    """By trying all: the most pairs of the detections, and how many unpaired ones then are wrong, at least."""
    if not near:
        return 0, 0
    pairs, left = most_pairs(near[1:], outside[1:], taken)
    ways = [(pairs, left + outside[0])]
    for person in set(near[0]) - taken:
        pairs, left = most_pairs(near[1:], outside[1:], taken | {person})
        ways.append((pairs + 1, left))
    return max(ways, key=lambda way: (way[0], -way[1]))


@given(st.integers(0, 2**32 - 1))
@example(171)  # which of two detections is paired matters: one of them lies in an ignored region
@settings(max_examples=25, deadline=None)
def test_crowd_figures_follow_their_definition(seed: int) -> None:
    cases = random_cases(seed, classes=1)
    expected = crowd_by_definition(cases)
    if expected is not None:
        assert list(crowd_report(cases, 1).figures.values()) == pytest.approx(expected)


def test_the_jaccard_index_forms_as_many_pairs_as_it_can() -> None:
    first, second = [0, 0, 10, 10], [0, 3, 10, 13]
    # The better detection is nearer to the second, which the other one alone can have.
    better, other = [0, 2, 10, 12], [0, 6, 10, 16]
    cases = [case(objects([first, second]), found([better, other], [0.95, 0.92]))]
    assert crowd_report(cases, 1).figures["ji"] == 1


def test_what_lies_in_an_ignored_region_of_a_crowd_is_no_error() -> None:
    inside = [[60 + x, 60, 66 + x, 80] for x in (0, 10, 20)]
    truth = objects([LEFT, [50, 50, 100, 100]], ignored=[False, True])
    figures = crowd_report([case(truth, found([*inside, LEFT], [0.9, 0.8, 0.7, 0.6]))], 1).figures
    assert figures["mr"] == pytest.approx(1e-10)
    assert figures["ji"] == 1


def test_lvis_drops_what_was_not_looked_for_and_forgives_what_is_not_wholly_marked() -> None:
    truth = objects([LEFT, RIGHT], [0, 2])
    detections = found([FAR, FAR, LEFT, RIGHT], [0.9, 0.8, 0.7, 0.6], [1, 2, 0, 2])
    also = case(objects([FAR], [1]), found([FAR], [0.5], [1]), 1)
    known = Verified(frozenset({0, 2}), incomplete=frozenset({2}))
    federated = lvis_report([case(truth, detections, verified=known), also], 3, masks=False)
    assert federated.figures["box_ap"] == pytest.approx(1)
    plain = lvis_report([case(truth, detections), also], 3, masks=False)
    assert plain.per_class[1].figures["box_ap"] == pytest.approx(0.5)
    assert plain.per_class[2].figures["box_ap"] == pytest.approx(0.5)


def test_lvis_tells_rare_common_and_frequent_classes_apart() -> None:
    truth = objects([LEFT, RIGHT, FAR], [0, 1, 2])
    cases = [case(truth, found([LEFT, RIGHT], [0.9, 0.8], [0, 1]))]
    figures = lvis_report(cases, 3, masks=False, frequencies=list("rcf")).figures
    assert [figures[f"box_{name}"] for name in ("apr", "apc", "apf")] == pytest.approx([1, 1, 0])
    assert "box_apr" not in lvis_report(cases, 3, masks=False, frequencies=list("ccc")).figures


def test_lvis_counts_the_best_detections_of_all_classes_together() -> None:
    truth = objects([LEFT, RIGHT], [0, 1])
    figures = lvis_report([case(truth, found([LEFT, RIGHT], [0.9, 0.8], [0, 1]))], 2, masks=False, limit=1).figures
    assert figures["box_ap"] == pytest.approx(0.5)


def test_a_group_of_open_images_is_found_once() -> None:
    truth = objects([LEFT, [40, 40, 100, 100]], ignored=[False, True])
    inside = [[45, 45, 60, 60], [60, 60, 80, 80]]
    every = [case(truth, found([*inside, LEFT], [0.9, 0.8, 0.7]))]
    assert open_images_report(every, 1).figures["ap50"] == pytest.approx(1)
    assert open_images_report(every, 1).objects == 2
    without = [case(truth, found([LEFT], [0.7]))]
    assert open_images_report(without, 1).figures["ap50"] == pytest.approx(0.5)


def test_open_images_drops_what_was_not_verified() -> None:
    detections = found([FAR, LEFT], [0.9, 0.8], [1, 0])
    cases = [
        case(objects([LEFT]), detections, verified=Verified(frozenset({0}))),
        case(objects([FAR], [1]), found([FAR], [0.5], [1]), 1),
    ]
    assert open_images_report(cases, 2).figures["ap50"] == pytest.approx(1)


def test_results_are_read_by_other_tools(tmp_path: Any) -> None:
    cases = perfect(random_cases(4, masks=True))
    entries = [entry for one in cases for entry in result_entries(one.found, one.image_id, CATEGORIES)]
    (tmp_path / "results.json").write_text(json.dumps(entries))
    with quiet():
        coco = COCO()
        coco.dataset = {"images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(len(cases))]}
        coco.dataset |= {"categories": [{"id": number} for number in CATEGORIES], "annotations": []}
        coco.createIndex()
        read = coco.loadRes(str(tmp_path / "results.json"))
    for one in cases:
        rows = read.loadAnns(read.getAnnIds(imgIds=[one.image_id]))
        assert [row["category_id"] for row in rows] == [CATEGORIES[label] for label in one.found.labels]
        for row, (x1, y1, x2, y2), mask in zip(rows, one.found.boxes.tolist(), one.found.masks or (), strict=True):
            assert row["bbox"] == [x1, y1, x2 - x1, y2 - y1]
            assert read.annToMask(row).sum() == coco_area(mask)


def coco_area(mask: Any) -> int:
    from pycocotools import mask as coco_masks

    return int(coco_masks.area(mask))


def test_ids_of_pictures_may_be_numbers_and_text() -> None:
    cases = random_cases(3)
    mixed = [
        replace(case, image_id=f"b{case.image_id}" if place % 2 else case.image_id) for place, case in enumerate(cases)
    ]
    assert coco_report(mixed, 3, masks=False).figures == pytest.approx(
        coco_report(cases, 3, masks=False).figures, abs=0.02
    )
