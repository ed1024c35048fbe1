"""`internimage train segmentation`: from labelled pictures to a trained segmentor."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from internimage.tasks.segmentation.datasets import SegmentationData, open_dataset
from internimage.tasks.segmentation.evaluate import draw_samples, evaluate, write_report
from internimage.tasks.segmentation.loading import TrainSet, collate
from internimage.tasks.segmentation.metrics import Report
from internimage.tasks.segmentation.models import build_segmentor
from internimage.tasks.segmentation.objective import total_loss
from internimage.tasks.segmentation.recipes import RECIPES, SegmentationRecipe
from internimage.tasks.segmentation.segmentor import Segmentor
from internimage.tasks.segmentation.trained import Trained, description
from internimage.tasks.training.checkpoints import save_weights
from internimage.tasks.training.command import add_train_arguments, run_loop, run_training, start_run
from internimage.tasks.training.dense_models import dense_adamw, prepare_to_train
from internimage.tasks.training.distributed import Processes
from internimage.tasks.training.feed import Batch
from internimage.tasks.training.loop import Figures
from internimage.tasks.training.order import Order
from internimage.tasks.training.run_directory import RunDirectory

EXAMPLES = """examples:
  internimage train segmentation --recipe quick --data streets --output runs/streets
  internimage train segmentation --recipe quick_mask2former --data streets --output runs/queries --epochs 60
  internimage train segmentation --recipe upernet_internimage_t_512_160k_ade20k --print-recipe
  torchrun --nproc-per-node 8 -m internimage train segmentation --recipe upernet_internimage_t_512_160k_ade20k \\
      --data ADEChallengeData2016 --output runs/ade

streets/ holds images/{train,val}/*.jpg, labels/{train,val}/*.png of the same names with a class in each pixel, and
classes.json with their names; the published data sets are known by their own layouts. The same command again goes on
where it was interrupted.
"""

# What layer decay gives the learning rate of the stem, beside the stem: of Mask2Former what the official rule names.
_LOWEST = ("head.mask_embed.", "head.class_embed.", "head.level_embed", "head.query")
_UNDECAYED = ("attention.offsets.",)
_CLASSIFIERS = ("conv_seg.", "cls_embed.", "head.classifier.", "class_embed.")  # official names, and ours


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_train_arguments(parser, SegmentationRecipe, list(RECIPES))


def run(arguments: argparse.Namespace) -> int:
    """Train, and show the best weights' metrics at the end."""
    return run_training(arguments, SegmentationRecipe, RECIPES, train)


def train(
    recipe: SegmentationRecipe,
    data: Path,
    output: Path,
    processes: Processes,
    *,
    make_model: Callable[[SegmentationRecipe, int], nn.Module] | None = None,
) -> None:
    """Train a segmentor by a recipe; the run's folder then holds weights, metrics, log and pictures.

    Args:
        recipe: what to do.
        data: a folder that `open_dataset` knows, with the splits "train" and "val".
        output: folder of the run; one that was interrupted goes on.
        processes: who takes part.
        make_model: recipe, number of classes -> any model that is called as a `Segmentor` is, where it is not to be
            the recipe's own.

    Raises:
        ValueError: data, recipe and folder don't go together; the message says how.
        TrainingError, KeyboardInterrupt: see `Loop.train`.
    """
    training_data = open_dataset(data, "train", recipe.layout)
    validation_data = open_dataset(data, "val", recipe.layout)
    order = Order(
        [len(training_data)], recipe.batch_size, parts=recipe.accumulation * processes.world_size, seed=recipe.seed
    )
    directory = start_run(output, recipe, processes)
    model = (make_model or build_model)(recipe, len(training_data.classes)).to(processes.device)
    task = SegmentationTask(recipe, model, validation_data, directory, processes)
    run_loop(
        task,
        model,
        partial(build_optimizer, recipe),
        TrainSet(training_data, recipe.augmentation()),
        order,
        collate=collate,
        recipe=recipe,
        run=directory,
        processes=processes,
        title=f"{recipe.model} on {data.name}",
        curves={"miou": "mean IoU", "aacc": "pixel accuracy"},
    )


class SegmentationTask:
    """What segmentation brings to the loop."""

    best = "miou"

    def __init__(
        self,
        recipe: SegmentationRecipe,
        model: nn.Module,
        validation_data: SegmentationData,
        directory: RunDirectory,
        processes: Processes,
    ) -> None:
        self._recipe, self._data, self._directory, self._processes = recipe, validation_data, directory, processes
        self._views = recipe.views()
        self.metadata = description(recipe.model, model, validation_data.classes, self._views)
        self._report: Report | None = None

    def loss(self, model: nn.Module, batch: Batch, rng: np.random.Generator) -> Tensor:
        """The sum of the head's losses, and the auxiliary head's."""
        outputs, auxiliary_logits = model(batch["image"])
        return total_loss(outputs, auxiliary_logits, batch["labels"], points=self._recipe.points)

    def evaluate(self, model: nn.Module) -> Figures:
        """The figures of the validation data, in [0, 1]."""
        self._report, _ = evaluate(self._trained(model), self._data, self._processes, workers=self._recipe.workers)
        return {name: getattr(self._report, name) for name in ("miou", "macc", "aacc")}

    def export(self, model: nn.Module, name: str) -> None:
        """Write the weights, and the report of the evaluation before."""
        save_weights(model, self._directory.path / name, self.metadata, self._processes)
        samples = draw_samples(self._trained(model), self._data)
        if self._processes.is_main and self._report is not None:
            write_report(self._report, self._data.classes, self._directory.path, samples)

    def _trained(self, model: nn.Module) -> Trained:
        config = self._recipe.config
        return Trained(model, self._data.classes, self._views, window=config.window, stride=config.window_stride)


def build_model(recipe: SegmentationRecipe, num_classes: int) -> Segmentor:
    """The recipe's model on the CPU, initialised by its seed and from the weights that it names."""
    torch.manual_seed(recipe.seed)
    config = recipe.config
    rate = config.drop_path_rate if recipe.drop_path_rate is None else recipe.drop_path_rate
    model = build_segmentor(config, num_classes, drop_path_rate=rate)
    prepare_to_train(model, recipe, init_head=recipe.init_head, classifiers=_CLASSIFIERS)
    return model


def build_optimizer(recipe: SegmentationRecipe, model: nn.Module) -> AdamW:
    """AdamW over the recipe's groups."""
    return dense_adamw(model, recipe, recipe.config.variant, lowest=_LOWEST, undecayed=_UNDECAYED)
