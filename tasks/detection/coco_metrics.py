"""COCO's average precision of boxes and masks, by pycocotools, and LVIS's, which differs in what counts.

COCO (arXiv 1405.0312): the mean of the average precisions at IoU 0.5, 0.55, ... 0.95, over the classes. LVIS (arXiv
1908.03195, section 3): people looked for some classes in each picture only. Detections of others don't count, nor do
wrong ones of classes of which not every object in the picture is marked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.detection.average_precision import Curve
from internimage.tasks.detection.cases import Case, best, drop_unchecked
from internimage.tasks.detection.coco_format import Entry, result_entries, truth_entries
from internimage.tasks.detection.objects import Frequency
from internimage.tasks.detection.pycoco import mask_tools, quiet
from internimage.tasks.detection.report import ClassScores, Report, mean_figures

_IOU_50, _IOU_75 = 0, 5  # places of the thresholds
_NO_FREQUENCIES = (
    "no figures of rare, common and frequent classes: some categories have neither a frequency nor an image_count"
)
_AREAS = {"s": 1, "m": 2, "l": 3}

Scores = NDArray[np.float64]


def coco_report(cases: Sequence[Case], num_classes: int, *, masks: bool, limit: int = 100) -> Report:
    """
    Args:
        cases: the pictures.
        num_classes: that there are.
        masks: judge them too.
        limit: of detections of a picture and class that count; COCO's figures are those of 100.

    Raises:
        ValueError: no picture holds an object that counts.
    """
    return _report(cases, num_classes, masks=masks, limit=limit)


def lvis_report(
    cases: Sequence[Case],
    num_classes: int,
    *,
    masks: bool,
    limit: int = 300,
    frequencies: Sequence[Frequency] | None = None,
) -> Report:
    """
    Args:
        cases: the pictures, with the classes that people looked for.
        num_classes: that there are.
        masks: judge them too.
        limit: of detections of a picture that count; LVIS's figures are those of 300.
        frequencies: of the classes, by label, for the figures of rare, common and frequent ones; None: without.

    Raises:
        ValueError: no picture holds an object that counts.
    """
    cut = [replace(case, found=best(case.found, limit)) for case in drop_unchecked(cases)]
    report = _report(cut, num_classes, masks=masks, limit=limit, frequencies=frequencies)
    return report if frequencies is not None else replace(report, note=_NO_FREQUENCIES)


def _report(
    cases: Sequence[Case],
    num_classes: int,
    *,
    masks: bool,
    limit: int,
    frequencies: Sequence[Frequency] | None = None,
) -> Report:
    # The order of pycocotools, for equal scores; ids that are text come last.
    cases = sorted(cases, key=lambda case: (isinstance(case.image_id, str), case.image_id))
    objects = np.zeros(num_classes, int)
    for case in cases:
        objects += np.bincount(case.truth.labels[~case.truth.ignored], minlength=num_classes)
    kinds = {"box": "bbox", "mask": "segm"} if masks else {"box": "bbox"}
    scores = {kind: _evaluate(cases, num_classes, iou_type, limit) for kind, iou_type in kinds.items()}
    per_class = tuple(
        ClassScores(int(count), dict(_class_figures(scores, label)) if count else {})
        for label, count in enumerate(objects)
    )
    mean_figures(per_class)  # raises where there is nothing to judge
    figures: dict[str, float] = {}
    for kind, (precision, recall) in scores.items():
        figures |= {f"{kind}_{name}": value for name, value in _figures(precision, recall, frequencies)}
    curves = {
        label: Curve(np.linspace(0, 1, 101), scores["box"][0][_IOU_50, :, label, 0])
        for label, count in enumerate(objects)
        if count
    }
    return Report(len(cases), figures, per_class, curves)


def _figures(precision: Scores, recall: Scores, frequencies: Sequence[Frequency] | None) -> Iterator[tuple[str, float]]:
    """Means over what there is; pycocotools marks the rest by -1."""
    parts = {
        "ap": precision[..., 0],
        "ap50": precision[_IOU_50, ..., 0],
        "ap75": precision[_IOU_75, ..., 0],
        **{f"ap{letter}": precision[..., place] for letter, place in _AREAS.items()},
        "ar": recall[..., 0],
    }
    if frequencies is not None:
        parts |= {f"ap{one}": precision[:, :, np.asarray(frequencies) == one, 0] for one in get_args(Frequency)}
    for name, part in parts.items():
        known = part[part > -1]
        if known.size:
            yield name, float(known.mean())


def _class_figures(scores: Mapping[str, tuple[Scores, Scores]], label: int) -> Iterator[tuple[str, float]]:
    for kind, (precision, _) in scores.items():
        yield f"{kind}_ap", float(precision[:, :, label, 0].mean())
        yield f"{kind}_ap50", float(precision[_IOU_50, :, label, 0].mean())


def _evaluate(cases: Sequence[Case], num_classes: int, iou_type: str, limit: int) -> tuple[Scores, Scores]:
    """Precision [IoU, recall, class, area] and recall [IoU, class, area]; -1 where there is no object."""
    from pycocotools.cocoeval import COCOeval

    class Federated(COCOeval):  # type: ignore[misc]
        """Wrong detections of classes that are not wholly marked don't count."""

        def evaluateImg(self, image: int, category: int, *limits: Any) -> Any:  # noqa: N802  (pycocotools' name)
            result = super().evaluateImg(image, category, *limits)
            verified = cases[image].verified
            if result is not None and verified is not None and category in verified.incomplete:
                result["dtIgnore"] |= result["dtMatches"] == 0
            return result

    with quiet():
        evaluator = Federated(*_coco_pair(cases, num_classes, iou_type), iou_type)
        evaluator.params.maxDets = [limit]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval["precision"][..., 0], evaluator.eval["recall"][..., 0]


def _coco_pair(cases: Sequence[Case], num_classes: int, iou_type: str) -> tuple[Any, Any]:
    """Truth and results as pycocotools wants them, made without files. Pictures and classes are called by number."""
    labels = range(num_classes)
    truth, found = [], []
    for image, case in enumerate(cases):
        truth += truth_entries(case.truth, image, labels)
        found += result_entries(case.found, image, labels)
    for entry in found:
        entry["area"] = entry["bbox"][2] * entry["bbox"][3]
    if iou_type == "segm":
        for entry in found:
            entry["area"] = float(mask_tools().area(entry["segmentation"]))
    return _coco(cases, labels, truth), _coco(cases, labels, found)


def _coco(cases: Sequence[Case], labels: range, entries: list[Entry]) -> Any:
    from pycocotools.coco import COCO

    for number, entry in enumerate(entries, 1):  # 0 would mean "matched nothing" to pycocotools
        entry["id"] = number
    coco = COCO()
    sizes = [{"id": image, "height": case.size[0], "width": case.size[1]} for image, case in enumerate(cases)]
    coco.dataset = {"images": sizes, "annotations": entries, "categories": [{"id": label} for label in labels]}
    coco.createIndex()
    return coco
