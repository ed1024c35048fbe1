"""`internimage eval detection`: how well a detector does on annotated pictures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import DataLoader
from tqdm import tqdm

from internimage.tasks import charts
from internimage.tasks.detection.cases import Case
from internimage.tasks.detection.class_names import Classes
from internimage.tasks.detection.coco_format import result_entries
from internimage.tasks.detection.confusion import best_and_worst, confusion
from internimage.tasks.detection.datasets import DetectionData, open_dataset
from internimage.tasks.detection.loading import EvalItem, EvalSet
from internimage.tasks.detection.metrics import judge
from internimage.tasks.detection.objects import Found
from internimage.tasks.detection.pictures import comparison_picture, sheet
from internimage.tasks.detection.report import Report
from internimage.tasks.detection.result_charts import confusion_chart, curve_chart
from internimage.tasks.detection.trained import Trained, add_model_arguments, load_from_arguments
from internimage.tasks.images import Image, ImageError, write_image
from internimage.tasks.model_options import add_evaluation_options, check_evaluation_options
from internimage.tasks.picture_files import annotation_paths
from internimage.tasks.training.distributed import Processes, join_processes
from internimage.tasks.training.samples import worker_init
from internimage.weight_files import written_whole

EXAMPLES = """examples:
  internimage eval detection --data cells --checkpoint runs/cells
  internimage eval detection --data coco --model mask_rcnn_internimage_b_fpn_3x_coco
  internimage eval detection --data cells --checkpoint runs/cells --scales 0.75 1 1.25 --flip --output scores
  torchrun --nproc-per-node 8 -m internimage eval detection --data coco --model cascade_internimage_xl_fpn_3x_coco
"""

_SAMPLES = 4  # best, and worst, pictures
DRAWN = 0.3  # score from which detections are drawn, and count in the confusion matrix and the choice of pictures


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What came out.

    Attributes:
        report: the figures of the data set's metric.
        cases: the pictures that could be read, in the order of the data.
        places: their numbers in the data.
        corrupt: why the others can't be read, with their names.
    """

    report: Report
    cases: tuple[Case, ...]
    places: tuple[int, ...]
    corrupt: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder with the data set")
    parser.add_argument("--split", default="val", help="which split (val)")
    parser.add_argument("--layout", metavar="NAME", help="of the folder (seen from what it holds)")
    parser.add_argument(
        "--hierarchy",
        type=Path,
        metavar="FILE",
        help="of Open Images' classes (bbox_labels_600_hierarchy.json beside the annotations); objects count for the "
        "classes above theirs, too",
    )
    parser.add_argument(
        "--expand-detections",
        action="store_true",
        help="detections count for the classes above theirs, too: for models that were trained without the hierarchy",
    )
    add_model_arguments(parser)
    add_evaluation_options(
        parser,
        files="metrics.json, report.txt, results.json (COCO's format), curves.png, confusion.png and samples.png (best "
        "and worst pictures)",
        drawn="truth and detections",
    )
    parser.add_argument(
        "--threshold", type=float, default=DRAWN, help=f"least score of detections in pictures and confusion ({DRAWN})"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print and write the metrics; 1 where pictures could not be read."""
    check_evaluation_options(arguments)
    if not 0 <= arguments.threshold <= 1:
        raise ValueError(f"--threshold must be from 0 to 1, got {arguments.threshold}")
    with join_processes(arguments.device) as processes:
        trained = load_from_arguments(arguments, processes.device)
        dataset = open_dataset(arguments.data, arguments.split, arguments.layout, hierarchy=arguments.hierarchy)
        if processes.is_main:
            for remark in dataset.dropped:
                print(remark, file=sys.stderr)
        if arguments.expand_detections and dataset.ancestors is None:
            raise ValueError("--expand-detections needs the hierarchy of Open Images' classes: give --hierarchy FILE")
        check_classes(trained.classes, dataset.classes)
        evaluation = evaluate(
            trained, dataset, processes, workers=arguments.workers, expand_detections=arguments.expand_detections
        )
        if processes.is_main:
            _print(evaluation, dataset.classes, as_json=arguments.json)
            if arguments.output:
                write_evaluation(evaluation, dataset, arguments.output, threshold=arguments.threshold)
        if arguments.pictures:
            _draw_all(evaluation, dataset, processes, arguments.output / "pictures", arguments.threshold)
    return 1 if evaluation.corrupt else 0


def check_classes(of_model: Classes, of_data: Sequence[str]) -> None:
    """
    Raises:
        ValueError: the model was trained on other classes than the data has.
    """
    if len(of_model) != len(of_data):
        raise ValueError(
            f"the model tells {len(of_model)} classes apart, the data has {len(of_data)}; evaluate on the kind of data "
            "that it was trained on"
        )
    for label, (ours, theirs) in enumerate(zip(of_model.names, of_data, strict=True)):
        if ours != theirs:
            raise ValueError(
                f"class {label} is {ours!r} to the model and {theirs!r} in the data; give the model's names in the "
                "data's order and spelling as --classes FILE if they mean the same"
            )


def evaluate(
    trained: Trained, dataset: DetectionData, processes: Processes, *, workers: int, expand_detections: bool = False
) -> Evaluation:
    """Detect and judge a data set that the processes share; each picture counts once, and all get the same result.

    Args:
        trained: with the classes of the data.
        dataset: with pictures of any sizes.
        processes: who takes part. Each sees equally many pictures, as sharded models need it.
        workers: that load, for each process.
        expand_detections: see `open_images_report`.

    Raises:
        ValueError: no picture holds an object that counts.
    """
    own, repeated = processes.share(len(dataset))
    loader: DataLoader[EvalItem] = DataLoader(
        EvalSet(dataset, trained.views),
        batch_size=None,
        sampler=own,
        num_workers=workers,
        worker_init_fn=worker_init,
        pin_memory=processes.device.type == "cuda",
    )
    found: dict[int, Found] = {}
    corrupt: list[str] = []
    quiet = None if processes.is_main else True
    bar = tqdm(loader, desc="evaluating", unit="image", disable=quiet, leave=False, dynamic_ncols=True)
    for number, (index, item) in enumerate(zip(own, bar, strict=True), 1):
        result = trained.find(item["views"], item["size"])
        corrupt += item["corrupt"]
        if not item["corrupt"] and not (repeated and number == len(own)):
            found[index] = result
    parts = processes.gather((found, corrupt))
    places, cases = zip(*sorted(_cases(dataset, [part for part, _ in parts])), strict=True) or ((), ())
    report = judge(
        dataset.metric,
        cases,
        len(dataset.classes),
        limit=trained.counted,
        frequencies=dataset.frequencies,
        ancestors=dataset.ancestors,
        expand_detections=expand_detections,
    )
    return Evaluation(report, cases, places, tuple(sorted({name for _, names in parts for name in names})))


def write_evaluation(evaluation: Evaluation, dataset: DetectionData, folder: Path, *, threshold: float = DRAWN) -> None:
    """Write metrics.json, report.txt, results.json, curves.png, confusion.png and samples.png.

    Args:
        evaluation: of the data set.
        dataset: read again for the pictures.
        folder: made when it doesn't exist.
        threshold: score from which detections are drawn, and count in the confusion matrix.
    """
    names, report, cases = dataset.classes, evaluation.report, evaluation.cases
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "metrics.json", report.to_json(names), indent=1)
    results = [entry for case in cases for entry in result_entries(case.found, case.image_id, dataset.category_ids)]
    _write_json(folder / "results.json", results)
    (folder / "report.txt").write_text("\n".join(report.table(names)) + "\n")
    charts.save(curve_chart(report, names, report.summary()), folder / "curves.png")
    counts = confusion(cases, len(names), threshold)
    charts.save(confusion_chart(counts, names, f"detections from a score of {threshold} on"), folder / "confusion.png")
    best, worst = best_and_worst(cases, threshold, _SAMPLES)
    groups = [(name, list(_pictures(evaluation, dataset, rows))) for name, rows in (("best", best), ("worst", worst))]
    samples = sheet(groups, names, threshold=threshold)
    if samples is not None:
        write_image(folder / "samples.png", samples)


def _cases(dataset: DetectionData, parts: Iterable[dict[int, Found]]) -> Iterator[tuple[int, Case]]:
    for part in parts:
        for index, found in part.items():
            yield (
                index,
                Case(
                    dataset.name(index),
                    dataset.image_id(index),
                    dataset.size(index),
                    dataset.objects(index),
                    found,
                    dataset.verified(index),
                ),
            )


def _pictures(evaluation: Evaluation, dataset: DetectionData, rows: Iterable[int]) -> Iterator[tuple[Case, Image]]:
    for row in rows:
        with suppress(ImageError, OSError):
            yield evaluation.cases[row], dataset.read_image(evaluation.places[row])


def _draw_all(
    evaluation: Evaluation, dataset: DetectionData, processes: Processes, folder: Path, threshold: float
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    targets = annotation_paths([case.name for case in evaluation.cases], folder)
    own = range(processes.rank, len(evaluation.cases), processes.world_size)
    bar = tqdm(own, desc="drawing", unit="image", disable=None if processes.is_main else True, dynamic_ncols=True)
    for case, image in _pictures(evaluation, dataset, bar):
        write_image(targets[case.name], comparison_picture(case, image, dataset.classes, threshold=threshold))


def _write_json(path: Path, content: object, indent: int | None = None) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=indent) + "\n")


def _print(evaluation: Evaluation, names: Sequence[str], *, as_json: bool) -> None:
    corrupt = evaluation.corrupt
    if as_json:
        print(json.dumps(evaluation.report.to_json(names) | {"unreadable": list(corrupt)}, indent=1))
        return
    print("\n".join(evaluation.report.table(names)))
    if corrupt:
        print(f"left out {len(corrupt)} pictures that can't be read: {'; '.join(corrupt[:10])}")
