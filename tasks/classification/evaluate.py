"""`internimage eval classification`: how well a classifier does on labelled images."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from internimage import imagenet
from internimage.tasks import charts, run_charts
from internimage.tasks.classification.data import Dataset, open_dataset
from internimage.tasks.classification.loading import EvalSet, collate
from internimage.tasks.classification.metrics import IGNORED, ClassificationMetrics, Report
from internimage.tasks.classification.trained import Trained, add_model_arguments, load_from_arguments
from internimage.tasks.classification.tta import predict_views, to_1k
from internimage.tasks.devices import add_device_argument
from internimage.tasks.training.distributed import Processes, join_processes
from internimage.tasks.training.feed import to_device
from internimage.tasks.training.samples import worker_init
from internimage.weight_files import written_whole

EXAMPLES = """examples:
  internimage eval classification --data photos --checkpoint runs/photos
  internimage eval classification --data imagenet --model internimage_b --batch-size 64
  internimage eval classification --data imagenet --model internimage_l.22k_384 --scales 1 1.1 --flip
  torchrun --nproc-per-node 8 -m internimage eval classification --data imagenet --model internimage_h --output scores
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder with the data's splits")
    parser.add_argument("--split", default="val", help="which split (val)")
    parser.add_argument("--classes", type=Path, metavar="FILE", help="class ids in the order of the labels")
    add_model_arguments(parser)
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0], help="scales of the views to average (1)")
    parser.add_argument("--flip", action="store_true", help="average with the mirrored views")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write metrics.json and confusion.png there")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--batch-size", type=int, default=32, help="images at once, for each process (32)")
    parser.add_argument("--workers", type=int, default=2, help="processes that load images, for each process (2)")
    add_device_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print and write the metrics; 1 where images could not be read."""
    if arguments.batch_size < 1 or arguments.workers < 0:
        raise ValueError("--batch-size must be at least 1 and --workers at least 0")
    if arguments.output:
        charts.require_matplotlib()
    with join_processes(arguments.device) as processes:
        trained = load_from_arguments(arguments, processes.device)
        classes = arguments.classes or evaluated_classes(trained, arguments.data / arguments.split)
        dataset = open_dataset(arguments.data, arguments.split, classes=classes)
        logits = adapt(trained.model, len(dataset.classes))

        def predict(images: Tensor, **inputs: Tensor) -> Tensor:
            def model(view: Tensor) -> Tensor:
                return logits(view, **inputs)

            return predict_views(model, images, scales=arguments.scales, flip=arguments.flip).log()

        report, corrupt = evaluate(
            predict,
            dataset,
            trained.size,
            processes,
            batch_size=arguments.batch_size,
            workers=arguments.workers,
        )
        if processes.is_main:
            names = readable_names(dataset.classes)
            _print(report, corrupt, names, as_json=arguments.json)
            if arguments.output:
                arguments.output.mkdir(parents=True, exist_ok=True)
                write_report(report, names, arguments.output)
    return 1 if corrupt else 0


def evaluate(
    predict: Callable[..., Tensor],
    dataset: Dataset,
    size: int,
    processes: Processes,
    *,
    batch_size: int,
    workers: int,
) -> tuple[Report, list[str]]:
    """Metrics over a data set that the processes share; each image counts once, and all get the same result.

    Args:
        predict: images [N, 3, size, size] (and metadata, where the data has it) -> logits [N, C].
        dataset: with C classes.
        size: of the images, pixels.
        processes: who takes part. Each sees equally many batches, as sharded models need it.
        batch_size: images at once in each process.
        workers: that load, for each process.

    Returns:
        The report, and the names of images that could not be read and were left out.
    """
    own, repeated = processes.share(len(dataset))
    loader: DataLoader[Any] = DataLoader(
        EvalSet(dataset, size),
        batch_size,
        sampler=own,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=worker_init,
        pin_memory=processes.device.type == "cuda",
    )
    metrics = ClassificationMetrics(len(dataset.classes))
    corrupt: list[str] = []
    quiet = None if processes.is_main else True
    bar = tqdm(loader, desc="evaluating", unit="batch", disable=quiet, leave=False, dynamic_ncols=True)
    for number, batch in enumerate(bar, 1):
        if repeated and number == len(loader):
            batch["label"][-1] = IGNORED
        inputs = to_device(batch, processes.device)
        extra = {"metadata": inputs["metadata"]} if "metadata" in inputs else {}
        with torch.no_grad():
            metrics.update(predict(inputs["image"], **extra), inputs["label"])
        corrupt += batch["corrupt"]
    for total in metrics.tensors().values():
        total.copy_(processes.sum(total))
    return metrics.compute(), sorted({name for part in processes.gather(corrupt) for name in part})


def adapt(model: Callable[..., Tensor], num_classes: int) -> Callable[..., Tensor]:
    """The model, or a 22K model restricted to ImageNet-1K where the data has its 1000 classes."""
    found = getattr(model, "num_classes", num_classes)
    if found == num_classes:
        return model
    if (found, num_classes) == (21841, 1000):
        return lambda *inputs, **extra: to_1k(model(*inputs, **extra))
    raise ValueError(
        f"the model tells {found} classes apart, the data has {num_classes}; give the class list that the model was "
        "trained on as --classes FILE"
    )


def evaluated_classes(trained: Trained, folder: Path) -> Sequence[str] | None:
    """The labels to evaluate on: the model's classes; of a 22K model on folders of ImageNet-1K, those."""
    if trained.classes == imagenet.wordnet_ids(21841) and folder.is_dir():
        found = {path.name for path in folder.iterdir() if path.is_dir()}
        if found and found <= set(imagenet.wordnet_ids(1000)):
            return imagenet.wordnet_ids(1000)
    return trained.classes


def readable_names(classes: Sequence[str]) -> Sequence[str]:
    """ImageNet's names for its classes, else the ids."""
    if len(classes) in (1000, 21841) and tuple(classes) == imagenet.wordnet_ids(len(classes)):
        return imagenet.class_names(len(classes))
    return classes


def write_report(report: Report, names: Sequence[str], folder: Path) -> None:
    """Write metrics.json, and where there are not too many classes confusion.png."""
    with written_whole(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(report.to_json() | {"classes": list(names)}, indent=1) + "\n")
    if report.confusion is not None:
        title = f"{report.images} images: top-1 {report.top1:.2%}, mean accuracy of the classes {report.macro:.2%}"
        charts.save(run_charts.confusion_matrix(report.confusion, names, title), folder / "confusion.png")


def _print(report: Report, corrupt: Sequence[str], names: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report.to_json() | {"classes": list(names), "unreadable": list(corrupt)}, indent=1))
        return
    print("\n".join(report.table(names)))
    if corrupt:
        print(f"left out {len(corrupt)} images that can't be read: {'; '.join(corrupt[:10])}")
