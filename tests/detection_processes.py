"""Evaluation of a detector, alone or as one of two processes; they must be able to import it."""

import hashlib
import json
from typing import Any

import torch
import torch.distributed as dist

from internimage.tasks.detection import create_detector
from internimage.tasks.detection.class_names import parse_classes
from internimage.tasks.detection.coco_format import result_entries
from internimage.tasks.detection.datasets import open_dataset
from internimage.tasks.detection.evaluate import evaluate
from internimage.tasks.detection.trained import Trained
from internimage.tasks.detection.views import Views
from internimage.tasks.training.distributed import Processes
from internimage.weight_files import metadata


def evaluate_share(weights: Any, data: Any, processes: Processes) -> Any:
    """The figures, and a digest of all results in COCO's format: a pipe holds no more."""
    torch.set_num_threads(1)
    written = metadata(weights)
    dataset = open_dataset(data, "val")
    model = create_detector(written["detector"], checkpoint=weights, num_classes=len(dataset.classes))
    trained = Trained(model.eval(), parse_classes(written["classes"], ""), Views((96, 96)), mirrored=True)
    evaluation = evaluate(trained, dataset, processes, workers=0)
    entries = [e for case in evaluation.cases for e in result_entries(case.found, case.image_id, dataset.category_ids)]
    digest = hashlib.sha256(json.dumps(entries).encode()).hexdigest()
    return evaluation.report.to_json(dataset.classes) | {"results": len(entries), "digest": digest}


def process(rank: int, store: Any, weights: Any, data: Any, results: Any) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    results.put((rank, evaluate_share(weights, data, Processes(torch.device("cpu"), rank, 2))))
    dist.barrier()
    dist.destroy_process_group()
