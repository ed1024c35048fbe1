"""`internimage train classification`: from a folder of images to a trained classifier."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from internimage import InternImage, create_model, load_checkpoint
from internimage.tasks.classification.data import Dataset, open_dataset
from internimage.tasks.classification.evaluate import evaluate, readable_names, write_report
from internimage.tasks.classification.layer_decay import layer_decay_scale
from internimage.tasks.classification.loading import TrainSet, collate
from internimage.tasks.classification.metrics import Report
from internimage.tasks.classification.mixing import mix, mixed_cross_entropy
from internimage.tasks.classification.recipes import RECIPES, ClassificationRecipe
from internimage.tasks.classification.trained import description
from internimage.tasks.training.batch_norm import synchronise_batch_norms
from internimage.tasks.training.checkpoints import save_weights
from internimage.tasks.training.command import add_train_arguments, run_loop, run_training, start_run
from internimage.tasks.training.distributed import Processes
from internimage.tasks.training.feed import Batch
from internimage.tasks.training.loop import Figures
from internimage.tasks.training.optimizer import build_adamw
from internimage.tasks.training.order import Order
from internimage.tasks.training.run_directory import RunDirectory, weights_file
from internimage.variants import VARIANTS

EXAMPLES = """examples:
  internimage train classification --recipe quick --data photos --output runs/photos
  internimage train classification --recipe quick --data photos --output runs/more --epochs 100 --model internimage_pico
  internimage train classification --recipe internimage_t_1k_224 --print-recipe
  torchrun --nproc-per-node 8 -m internimage train classification --recipe internimage_t_1k_224 \\
      --data imagenet --output runs/t --accumulation 4
  torchrun --nnodes 8 --nproc-per-node 8 --rdzv-endpoint HOST:29500 -m internimage train classification \\
      --recipe internimage_h_22kto1k_640_without_lr_decay --strategy fsdp --data imagenet --output /shared/runs/h

photos/ holds train/CLASS/*.jpg and val/CLASS/*.jpg. The same command again goes on where it was interrupted.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="class ids, one a line, in the order of the labels"
    )
    add_train_arguments(parser, ClassificationRecipe, list(RECIPES))


def run(arguments: argparse.Namespace) -> int:
    """Train, and show the best weights' metrics at the end."""
    return run_training(arguments, ClassificationRecipe, RECIPES, partial(train, classes=arguments.classes))


def train(
    recipe: ClassificationRecipe,
    data: Path,
    output: Path,
    processes: Processes,
    *,
    classes: Path | None = None,
    make_model: Callable[[ClassificationRecipe, int], nn.Module] | None = None,
) -> None:
    """Train a classifier by a recipe; the run's folder then holds weights, metrics, log and pictures.

    Args:
        recipe: what to do.
        data: a folder that `open_dataset` knows, with the splits "train" and "val".
        output: folder of the run; one that was interrupted goes on.
        processes: who takes part.
        classes: file with the classes to train on; without it all that "train" has.
        make_model: recipe, number of classes -> any classifier, where it is not to be the recipe's InternImage.

    Raises:
        ValueError: data, recipe and folder don't go together; the message says how.
        TrainingError, KeyboardInterrupt: see `Loop.train`.
    """
    training_data = open_dataset(data, "train", classes=classes)
    validation_data = open_dataset(data, "val", classes=classes or training_data.classes)
    order = Order(
        training_data.sizes,
        recipe.batch_size,
        parts=recipe.accumulation * processes.world_size,
        seed=recipe.seed,
        streams=recipe.streams,
        shuffle_buffer=recipe.shuffle_buffer,
    )
    directory = start_run(output, recipe, processes)
    model = (make_model or build_model)(recipe, len(training_data.classes)).to(processes.device)
    task = ClassificationTask(recipe, model, validation_data, directory, processes)
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
        curves={"top1": "top-1", "top5": "top-5"},
    )


class ClassificationTask:
    """What classification brings to the loop."""

    best = "top1"

    def __init__(
        self,
        recipe: ClassificationRecipe,
        model: nn.Module,
        validation_data: Dataset,
        directory: RunDirectory,
        processes: Processes,
    ) -> None:
        self.metadata = description(model, validation_data.classes, recipe.size)
        self._recipe, self._data, self._directory, self._processes = recipe, validation_data, directory, processes
        self._report: Report | None = None

    def loss(self, model: nn.Module, batch: Batch, rng: np.random.Generator) -> Tensor:
        """Cross entropy of a batch, mixed by the recipe."""
        recipe = self._recipe
        mixed = mix(batch["image"], rng, mixup=recipe.mixup, cutmix=recipe.cutmix)
        extra = {"metadata": batch["metadata"]} if recipe.metadata else {}
        logits = model(mixed.images, **extra)
        return mixed_cross_entropy(logits, batch["label"], mixed.share, recipe.label_smoothing)

    def evaluate(self, model: nn.Module) -> Figures:
        """The figures of the validation data, in [0, 1]."""

        def predict(images: Tensor, metadata: Tensor | None = None) -> Tensor:
            logits: Tensor = model(images, metadata=metadata) if self._recipe.metadata else model(images)
            return logits

        size = max(1, self._recipe.batch_size // (self._recipe.accumulation * self._processes.world_size))
        self._report, _ = evaluate(
            predict, self._data, self._recipe.size, self._processes, batch_size=size, workers=self._recipe.workers
        )
        return {name: getattr(self._report, name) for name in ("top1", "top5", "macro", "ece", "nll")}

    def export(self, model: nn.Module, name: str) -> None:
        """Write the weights, and the report of the evaluation before."""
        save_weights(model, self._directory.path / name, self.metadata, self._processes)
        if not self._processes.is_main or self._report is None:
            return
        names = readable_names(self._data.classes)
        write_report(self._report, names, self._directory.path)
        (self._directory.path / "report.txt").write_text("\n".join(self._report.table(names)) + "\n")


def build_model(recipe: ClassificationRecipe, num_classes: int) -> InternImage:
    """The recipe's model on the CPU, initialised by its seed or from the weights that it names."""
    torch.manual_seed(recipe.seed)
    variant = VARIANTS[recipe.model]
    rate = variant.drop_path_rate if recipe.drop_path_rate is None else recipe.drop_path_rate
    head: dict[str, Any] = {"head": "metadata"} if recipe.metadata else {}
    model = create_model(recipe.model, num_classes=num_classes, drop_path_rate=rate, **head)
    if recipe.init is not None:
        source = weights_file(Path(recipe.init)) if Path(recipe.init).exists() else recipe.init
        load_checkpoint(model, source, classifier=recipe.init_classifier)
    model.set_grad_checkpointing(recipe.grad_checkpointing)
    for stage in recipe.frozen_stages:
        frozen = [model.stages[stage]] + ([model.stem] if stage == 0 else [])
        for part in frozen:
            part.requires_grad_(False)
    if recipe.sync_batch_norm:
        synchronise_batch_norms(model)
    return model


def build_optimizer(recipe: ClassificationRecipe, model: nn.Module) -> AdamW:
    """AdamW over the recipe's groups."""
    options: dict[str, Any] = {}
    if recipe.layer_decay is not None:
        depths = VARIANTS[recipe.model].depths
        options["lr_scale"] = layer_decay_scale(depths, recipe.layer_decay, recipe.offset_lr_scale)
    peak = recipe.learning_rate * recipe.lr_factor
    return build_adamw(model, peak, recipe.weight_decay, beta2=recipe.beta2, **options)
