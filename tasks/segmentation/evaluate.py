"""`internimage eval segmentation`: how well a segmentor does on labelled pictures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from internimage.tasks import charts
from internimage.tasks.images import Image, ImageError, write_image
from internimage.tasks.model_options import add_evaluation_options, check_evaluation_options
from internimage.tasks.picture_files import annotation_paths
from internimage.tasks.segmentation.class_names import IGNORED, Classes
from internimage.tasks.segmentation.datasets import Sample, SegmentationData, open_dataset
from internimage.tasks.segmentation.inference import predict_classes
from internimage.tasks.segmentation.iou_chart import iou_chart
from internimage.tasks.segmentation.layouts import LAYOUTS
from internimage.tasks.segmentation.loading import EvalItem, EvalSet
from internimage.tasks.segmentation.metrics import Report, SegmentationMetrics
from internimage.tasks.segmentation.pictures import prediction_picture, sheet
from internimage.tasks.segmentation.trained import Trained, add_model_arguments, load_from_arguments
from internimage.tasks.training.distributed import Processes, join_processes
from internimage.tasks.training.samples import worker_init
from internimage.weight_files import written_whole

EXAMPLES = """examples:
  internimage eval segmentation --data streets --checkpoint runs/streets
  internimage eval segmentation --data ADEChallengeData2016 --model upernet_internimage_b_512_160k_ade20k
  internimage eval segmentation --data streets --checkpoint runs/streets --scales 0.75 1 1.25 --flip --output scores
  torchrun --nproc-per-node 8 -m internimage eval segmentation --data cityscapes \\
      --model mask2former_internimage_h_1024x1024_80k_mapillary2cityscapes
"""


_SAMPLES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder with the data set")
    parser.add_argument("--split", default="val", help="which split (val)")
    parser.add_argument(
        "--layout", metavar="NAME", help=f"of the folder: {', '.join(LAYOUTS)} (seen from what the folder holds)"
    )
    add_model_arguments(parser)
    add_evaluation_options(
        parser, files="metrics.json, report.txt, iou.png and samples.png", drawn="truth, prediction and errors"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print and write the metrics; 1 where pictures could not be read."""
    check_evaluation_options(arguments)
    with join_processes(arguments.device) as processes:
        trained = load_from_arguments(arguments, processes.device)
        dataset = open_dataset(arguments.data, arguments.split, arguments.layout)
        check_classes(trained.classes, dataset.classes)
        report, corrupt = evaluate(trained, dataset, processes, workers=arguments.workers)
        samples = draw_samples(trained, dataset) if arguments.output else None
        if processes.is_main:
            _print(report, corrupt, dataset.classes, as_json=arguments.json)
            if arguments.output:
                arguments.output.mkdir(parents=True, exist_ok=True)
                write_report(report, dataset.classes, arguments.output, samples)
        if arguments.pictures:
            _draw_all(trained, dataset, processes, arguments.output / "pictures")
    return 1 if corrupt else 0


def check_classes(of_model: Classes, of_data: Classes) -> None:
    """
    Raises:
        ValueError: the model was trained on other classes than the data has.
    """
    if len(of_model.names) != len(of_data.names):
        raise ValueError(
            f"the model tells {len(of_model.names)} classes apart, the data has {len(of_data.names)}; evaluate on the "
            "kind of data that it was trained on, or give another --layout"
        )
    for label, (ours, theirs) in enumerate(zip(of_model.names, of_data.names, strict=True)):
        if ours != theirs:
            raise ValueError(
                f"class {label} is {ours!r} to the model and {theirs!r} in the data; give the data's classes.json the "
                "names and the order that the model was trained with"
            )


def evaluate(
    trained: Trained, dataset: SegmentationData, processes: Processes, *, workers: int
) -> tuple[Report, list[str]]:
    """Metrics over a data set that the processes share; each picture counts once, and all get the same result.

    Args:
        trained: with as many classes as the data.
        dataset: with pictures of any sizes.
        processes: who takes part. Each sees equally many pictures, as sharded models need it; those must also be of
            one size if the model looks at them in windows.
        workers: that load, for each process.

    Returns:
        The report, and the names of pictures that could not be read and were left out.
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
    metrics = SegmentationMetrics(len(dataset.classes))
    corrupt: list[str] = []
    quiet = None if processes.is_main else True
    bar = tqdm(loader, desc="evaluating", unit="image", disable=quiet, leave=False, dynamic_ncols=True)
    for number, item in enumerate(bar, 1):
        labels: Tensor = item["labels"]
        views = [view.to(processes.device) for view in item["views"]]
        height, width = labels.shape
        predicted = predict_classes(trained.scorer, views, (height, width), mirrored=trained.mirrored)
        if repeated and number == len(own):
            labels = torch.full_like(labels, IGNORED)
        metrics.update(predicted[0].cpu(), labels)
        corrupt += item["corrupt"]
    for total in metrics.tensors().values():
        total.copy_(processes.sum(total))
    return metrics.compute(), sorted({name for part in processes.gather(corrupt) for name in part})


def draw_samples(trained: Trained, dataset: SegmentationData) -> Image | None:
    """A sheet of pictures from all over the data, each with truth, prediction and errors; None if none can be read."""
    chosen = np.linspace(0, len(dataset) - 1, min(_SAMPLES, len(dataset))).round().astype(int).tolist()
    examples = [(sample.image, sample.labels, trained.predict(sample.image)) for sample in _readable(dataset, chosen)]
    return sheet(examples, dataset.classes.names, dataset.classes.palette) if examples else None


def _draw_all(trained: Trained, dataset: SegmentationData, processes: Processes, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    classes = dataset.classes
    targets = annotation_paths([dataset.name(index) for index in range(len(dataset))], folder)
    own, _ = processes.share(len(dataset))
    bar = tqdm(own, desc="drawing", unit="image", disable=None if processes.is_main else True, dynamic_ncols=True)
    for sample in _readable(dataset, bar):
        predicted = trained.predict(sample.image)
        picture = prediction_picture(
            sample.image, predicted, classes.names, classes.palette, sample.labels, title=sample.name
        )
        write_image(targets[sample.name], picture)


def _readable(dataset: SegmentationData, indices: Iterable[int]) -> Iterator[Sample]:
    for index in indices:
        with suppress(ImageError, OSError):
            yield dataset.read(index)


def write_report(report: Report, classes: Classes, folder: Path, samples: Image | None) -> None:
    """Write metrics.json, report.txt, iou.png and samples.png."""
    with written_whole(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(report.to_json(classes.names), indent=1) + "\n")
    (folder / "report.txt").write_text("\n".join(report.table(classes.names)) + "\n")
    title = f"mean IoU {report.miou:.2%}, pixel accuracy {report.aacc:.2%}"
    charts.save(iou_chart(report, classes.names, classes.palette, title), folder / "iou.png")
    if samples is not None:
        write_image(folder / "samples.png", samples)


def _print(report: Report, corrupt: Sequence[str], classes: Classes, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report.to_json(classes.names) | {"unreadable": list(corrupt)}, indent=1))
        return
    print("\n".join(report.table(classes.names)))
    if corrupt:
        print(f"left out {len(corrupt)} pictures that can't be read: {'; '.join(corrupt[:10])}")
