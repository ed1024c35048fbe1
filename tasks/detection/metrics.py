"""The metric that a data set is judged by."""

from __future__ import annotations

from collections.abc import Sequence

from internimage.tasks.detection.cases import Case
from internimage.tasks.detection.coco_metrics import coco_report, lvis_report
from internimage.tasks.detection.crowd_metrics import crowd_report
from internimage.tasks.detection.layouts import Metric
from internimage.tasks.detection.objects import Ancestors, Frequency
from internimage.tasks.detection.open_images_metrics import open_images_report
from internimage.tasks.detection.report import Report
from internimage.tasks.detection.voc_metrics import voc_report


def headline(metric: Metric, *, masks: bool) -> str:
    """The name of the figure that the best of several detectors has the most of.

    Args:
        metric: of the data set.
        masks: the detectors draw them, which decides where the metric judges masks.
    """
    if metric in ("coco", "lvis"):
        return "mask_ap" if masks else "box_ap"
    return "ap50"


def judge(
    metric: Metric,
    cases: Sequence[Case],
    num_classes: int,
    *,
    limit: int | None = None,
    frequencies: Sequence[Frequency] | None = None,
    ancestors: Ancestors | None = None,
    expand_detections: bool = False,
) -> Report:
    """What a data set's metric says.

    Args:
        metric: of the data set.
        cases: its pictures.
        num_classes: that there are.
        limit: of detections of a picture that count; None: as many as the data set's authors count.
        frequencies: of the classes of LVIS, see `lvis_report`.
        ancestors: of the classes of Open Images, see `open_images_report`.
        expand_detections: likewise.

    Raises:
        ValueError: no picture holds an object that counts.
    """
    masks = any(case.found.masks is not None for case in cases) and all(case.truth.masks is not None for case in cases)
    match metric:
        case "coco":
            return coco_report(cases, num_classes, masks=masks, limit=limit or 100)
        case "lvis":
            return lvis_report(cases, num_classes, masks=masks, limit=limit or 300, frequencies=frequencies)
        case "voc":
            return voc_report(cases, num_classes)
        case "crowd_human":
            return crowd_report(cases, num_classes)
        case "open_images":
            return open_images_report(cases, num_classes, ancestors, expand_detections=expand_detections)
