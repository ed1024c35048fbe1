"""What `internimage train` is in every task: its options, and a run of the loop from its start to its pictures."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW
from torch.utils.data import Dataset

from internimage.tasks import charts, run_charts
from internimage.tasks.devices import add_device_argument
from internimage.tasks.training.distributed import Processes, join_processes
from internimage.tasks.training.feed import Feed
from internimage.tasks.training.loop import Follower, Loop, Task
from internimage.tasks.training.order import SampleOrder
from internimage.tasks.training.recipe import (
    Recipe,
    RecipeType,
    add_recipe_arguments,
    recipe_from_arguments,
    recipe_json,
)
from internimage.tasks.training.run_directory import RunDirectory
from internimage.tasks.training.samples import worker_init
from internimage.tasks.training.schedule import schedule_of


def add_train_arguments(parser: argparse.ArgumentParser, kind: type[Recipe], names: list[str]) -> None:
    """Add the options of `run_training`.

    Args:
        parser: to add them to.
        kind: of the recipes.
        names: of the recipes.
    """
    parser.add_argument("--data", type=Path, metavar="DIR", help="the folder with the data set")
    parser.add_argument("--output", type=Path, metavar="RUN", help="the folder of the run")
    add_device_argument(parser)
    add_recipe_arguments(parser, kind, names)


def run_training(
    arguments: argparse.Namespace,
    kind: type[RecipeType],
    table: Mapping[str, RecipeType],
    train: Callable[[RecipeType, Path, Path, Processes], None],
) -> int:
    """Train as the options say, or show the recipe; returns the exit status.

    Args:
        arguments: of `add_train_arguments`.
        kind: of the recipes.
        table: of the recipes.
        train: recipe, data, output, processes.
    """
    recipe = recipe_from_arguments(kind, table, arguments)
    if arguments.print_recipe:
        print(recipe_json(recipe), end="")
        return 0
    if arguments.data is None or arguments.output is None:
        raise ValueError("train: give the folder with the data as --data DIR and that of the run as --output RUN")
    charts.require_matplotlib()
    with join_processes(arguments.device) as processes:
        train(recipe, arguments.data, arguments.output, processes)
    return 0


def start_run(output: Path, recipe: Recipe, processes: Processes) -> RunDirectory:
    """The run's folder, new or to go on in, when all processes have come here."""
    if recipe.deterministic:
        torch.use_deterministic_algorithms(True)
    directory = RunDirectory(output, writes=processes.is_main)
    directory.start(recipe)
    processes.wait()
    return directory


def run_loop(
    task: Task,
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], AdamW],
    samples: Dataset[Any],
    order: SampleOrder,
    *,
    collate: Callable[[list[Any]], Mapping[str, Any]],
    recipe: Recipe,
    run: RunDirectory,
    processes: Processes,
    title: str,
    curves: Mapping[str, str],
    follower: Follower | None = None,
) -> None:
    """Train to the end of the recipe; show the report of the best weights, and draw the learning curves.

    Args:
        task: see `Loop`, like what has no line here.
        model: likewise.
        make_optimizer: likewise.
        samples: their items are asked for by (index, seed).
        order: of the samples.
        collate: list of items -> batch.
        recipe: what to do.
        run: where to; `task` writes report.txt.
        processes: who takes part.
        title: of the curves.
        curves: shown names of the figures to draw, shares in [0, 1]; the task's best one is among them.
        follower: see `Loop`.
    """
    loop = Loop(
        task,
        model,
        make_optimizer,
        schedule_of(recipe, order.steps_per_epoch),
        partial(Feed, samples, order, processes, collate=collate, workers=recipe.workers, worker_init=worker_init),
        steps_per_epoch=order.steps_per_epoch,
        images=sum(order.sizes),
        recipe=recipe,
        run=run,
        processes=processes,
        follower=follower,
    )
    loop.train()
    if processes.is_main:
        print((run.path / "report.txt").read_text(), end="")
        if task.best is not None:
            title = f"{title}, best {curves[task.best]} {loop.progress.best:.2%}"
        charts.save(run_charts.learning_curves(run.rows(), title, curves), run.path / "curves.png")
