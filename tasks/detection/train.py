"""`internimage train detection`: from pictures with boxes or masks to a trained detector."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from internimage.tasks.detection.class_names import Classes
from internimage.tasks.detection.datasets import DetectionData, open_dataset, trainable
from internimage.tasks.detection.dino import CLASSIFIERS, DINO, LOWEST, OFFSETS
from internimage.tasks.detection.evaluate import Evaluation, evaluate, write_evaluation
from internimage.tasks.detection.loading import TrainSet, collate, orientations
from internimage.tasks.detection.mask_rcnn import MaskRCNN
from internimage.tasks.detection.metrics import headline
from internimage.tasks.detection.models import build_detector
from internimage.tasks.detection.recipes import RECIPES, DetectionRecipe
from internimage.tasks.detection.seeing import limit_detections
from internimage.tasks.detection.trained import Trained, description
from internimage.tasks.detection.views import Views
from internimage.tasks.training.checkpoints import save_weights
from internimage.tasks.training.command import add_train_arguments, run_loop, run_training, start_run
from internimage.tasks.training.dense_models import dense_adamw, prepare_to_train
from internimage.tasks.training.distributed import Processes, inner_model
from internimage.tasks.training.feed import Batch
from internimage.tasks.training.loop import Figures
from internimage.tasks.training.order import Order
from internimage.tasks.training.run_directory import RunDirectory

EXAMPLES = """examples:
  internimage train detection --recipe quick --data cells --output runs/cells
  internimage train detection --recipe quick_masks --data nuclei --output runs/nuclei --epochs 60
  internimage train detection --recipe mask_rcnn_internimage_t_fpn_1x_coco --print-recipe
  torchrun --nproc-per-node 8 -m internimage train detection --recipe cascade_internimage_xl_fpn_3x_coco \\
      --data coco --output runs/coco

cells/ holds annotations/instances_{train,val}.json in COCO's format and images/; the published data sets are known by
their own layouts. The same command again goes on where it was interrupted.
"""

_CURVES = {"box_ap": "box AP", "mask_ap": "mask AP", "ap50": "AP50"}
# Official names, and ours.
_CLASSIFIERS = (
    *("fc_cls.", "fc_reg.", "conv_logits.", "classifier.", *(f"box_heads.{i}.deltas." for i in range(3))),
    *CLASSIFIERS,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_train_arguments(parser, DetectionRecipe, list(RECIPES))


def run(arguments: argparse.Namespace) -> int:
    """Train, and show the best weights' metrics at the end."""
    return run_training(arguments, DetectionRecipe, RECIPES, train)


def train(
    recipe: DetectionRecipe,
    data: Path,
    output: Path,
    processes: Processes,
    *,
    make_model: Callable[[DetectionRecipe, int], nn.Module] | None = None,
) -> None:
    """Train a detector by a recipe; the run's folder then holds weights, metrics, log and pictures.

    Args:
        recipe: what to do.
        data: a folder that `open_dataset` knows, with the splits "train" and "val".
        output: folder of the run; one that was interrupted goes on.
        processes: who takes part.
        make_model: recipe, number of classes -> any model that is called as a `MaskRCNN` is, where it is not to be the
            recipe's own.

    Raises:
        ValueError: data, recipe and folder don't go together; the message says how.
        TrainingError, KeyboardInterrupt: see `Loop.train`.
    """
    training_data = open_dataset(data, "train", recipe.layout)
    validation_data = open_dataset(data, "val", recipe.layout)
    if training_data.classes != validation_data.classes:
        pairs = zip_longest(training_data.classes, validation_data.classes)
        label, (learned, judged) = next(item for item in enumerate(pairs) if item[1][0] != item[1][1])
        raise ValueError(
            f"{data}: the classes of the training and the validation pictures differ: class {label} is {learned!r} in "
            f"one and {judged!r} in the other; give both the same categories"
        )
    if processes.is_main:
        for remark in (*training_data.dropped, *validation_data.dropped):
            print(remark)
    for split, part in (("training", training_data), ("validation", validation_data)):
        if recipe.config.masks and not part.has_masks:
            raise ValueError(
                f"{recipe.model} learns masks, but not all {split} objects of {data} have one; add them, or give a "
                "--model without masks, such as faster_rcnn_internimage_femto_small"
            )
    indices = trainable(training_data, keep_empty=recipe.keep_empty)
    order = Order(
        [len(indices)],
        recipe.batch_size,
        parts=recipe.accumulation * processes.world_size,
        seed=recipe.seed,
        groups=orientations(training_data, indices) if recipe.grouped and not recipe.by_class else b"",
    )
    directory = start_run(output, recipe, processes)
    model = (make_model or build_model)(recipe, len(training_data.classes)).to(processes.device)
    task = DetectionTask(recipe, model, validation_data, directory, processes)
    run_loop(
        task,
        model,
        partial(build_optimizer, recipe),
        TrainSet(training_data, indices, recipe.augmentation(), masks=recipe.config.masks, by_class=recipe.by_class),
        order,
        collate=collate,
        recipe=recipe,
        run=directory,
        processes=processes,
        title=f"{recipe.model} on {data.name}",
        curves=_CURVES,
    )


class DetectionTask:
    """What detection brings to the loop."""

    def __init__(
        self,
        recipe: DetectionRecipe,
        model: nn.Module,
        validation_data: DetectionData,
        directory: RunDirectory,
        processes: Processes,
    ) -> None:
        self._recipe, self._data, self._directory, self._processes = recipe, validation_data, directory, processes
        self._classes = Classes(validation_data.classes, validation_data.category_ids)
        self._views = Views(recipe.test_bounds)
        self.best = headline(validation_data.metric, masks=recipe.config.masks)
        self.metadata = description(recipe.model, model, self._classes, self._views)
        self._evaluation: Evaluation | None = None

    def loss(self, model: nn.Module, batch: Batch, rng: np.random.Generator) -> Tensor:
        """The sum of all losses."""
        losses: dict[str, Tensor] = model(batch["image"], batch["target"])
        return torch.stack(list(losses.values())).sum()

    def evaluate(self, model: nn.Module) -> Figures:
        """The figures of the validation data, in [0, 1]."""
        recipe, detector = self._recipe, inner_model(model)
        limit = recipe.detections or recipe.config.per_image
        limit_detections(detector, limit)
        trained = Trained(detector, self._classes, self._views, limit=limit, counted=recipe.detections)
        self._evaluation = evaluate(trained, self._data, self._processes, workers=self._recipe.workers)
        return dict(self._evaluation.report.figures)

    def export(self, model: nn.Module, name: str) -> None:
        """Write the weights, and the report of the evaluation before."""
        save_weights(model, self._directory.path / name, self.metadata, self._processes)
        if self._processes.is_main and self._evaluation is not None:
            write_evaluation(self._evaluation, self._data, self._directory.path)


def build_model(recipe: DetectionRecipe, num_classes: int) -> MaskRCNN | DINO:
    """The recipe's model on the CPU, initialised by its seed and from the weights that it names."""
    torch.manual_seed(recipe.seed)
    config = recipe.config
    rate = config.drop_path_rate if recipe.drop_path_rate is None else recipe.drop_path_rate
    model = build_detector(config, num_classes, drop_path_rate=rate)
    prepare_to_train(model, recipe, init_head=recipe.init_head, classifiers=_CLASSIFIERS)
    return model


def build_optimizer(recipe: DetectionRecipe, model: nn.Module) -> AdamW:
    """AdamW over the recipe's groups."""
    return dense_adamw(
        model,
        recipe,
        recipe.config.variant,
        lowest=LOWEST,
        undecayed=OFFSETS,
        factors={"backbone.": recipe.backbone_lr, **dict.fromkeys(OFFSETS, recipe.offset_lr)},
    )
