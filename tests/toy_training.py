"""A small training run on random images, for tests of the loop: in the test's process, or as a program under torchrun.

python toy_training.py RUN [--option value ...]: options of the recipe, and those at the end of this file.
"""

import argparse
import math
import os
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset, default_collate

from internimage import InternImage
from internimage.checkpoint import describe, save_state_dict
from internimage.tasks.training.batch_norm import synchronise_batch_norms
from internimage.tasks.training.distributed import join_processes
from internimage.tasks.training.feed import Feed
from internimage.tasks.training.loop import Loop
from internimage.tasks.training.optimizer import build_adamw
from internimage.tasks.training.order import Order
from internimage.tasks.training.recipe import Recipe, add_recipe_arguments, recipe_from_arguments
from internimage.tasks.training.run_directory import RunDirectory
from internimage.tasks.training.schedule import schedule_of

IMAGES, CLASSES = 26, 3  # 3 steps of 8 an epoch
RECIPE = Recipe(
    model="internimage_atto",
    epochs=3,
    batch_size=8,
    learning_rate=1e-3,
    warmup_epochs=1,
    ema_decay=0.9,
    workers=0,
    log_steps=1,
    sync_batch_norm=True,
    compile="off",
)


def sample(index, seed):
    """An image of a class, disturbed by what the seed says."""
    image = np.random.default_rng(index).normal(index % CLASSES, 1, (3, 32, 32))
    noise = np.random.default_rng(seed).normal(0, 0.5, (3, 32, 32))
    return torch.tensor(image + noise, dtype=torch.get_default_dtype()), index % CLASSES


class Images(Dataset):
    """Random images; `hook(index)` is called for each one and may do harm."""

    def __init__(self, hook=lambda index: ()):
        self.hook = hook

    def __getitem__(self, key):
        index, seed = key
        corrupt = self.hook(index)
        image, label = sample(index, seed)
        return {"image": image, "label": label, "corrupt": corrupt or ()}


def collate(items):
    corrupt = tuple(name for item in items for name in item.pop("corrupt"))
    return default_collate(items) | {"corrupt": corrupt}


class ToyTask:
    best = "accuracy"

    def __init__(self, model, run, on_loss=lambda loss: loss):
        self.metadata = describe(model)
        self.run, self.on_loss = run, on_loss

    def loss(self, model, batch, rng):
        return self.on_loss(F.cross_entropy(model(batch["image"]), batch["label"]))

    @torch.no_grad()
    def evaluate(self, model):
        images, labels = zip(*(sample(index, 0) for index in range(6)), strict=True)
        logits = model(torch.stack(images))
        return {
            "accuracy": float((logits.argmax(1) == torch.tensor(labels)).float().mean()),
            "nll": float(F.cross_entropy(logits, torch.tensor(labels))),
        }

    def export(self, model, name):
        if os.environ.get("RANK", "0") == "0" and not hasattr(model, "set_requires_gradient_sync"):
            save_state_dict(getattr(model, "module", model).state_dict(), self.run.path / name, self.metadata)


def make_model(recipe, drop_path_rate=0.0):
    torch.manual_seed(recipe.seed)
    model = InternImage(
        channels=8, depths=(1, 2, 1, 1), groups=(1, 2, 4, 8), num_classes=CLASSES, drop_path_rate=drop_path_rate
    )
    nn.init.normal_(model.stages[0].blocks[0].dcn.offset.weight, std=0.1)
    if recipe.sync_batch_norm:
        synchronise_batch_norms(model)
    return model


def make_loop(
    recipe, output, processes, hook=lambda index: (), on_loss=lambda loss: loss, drop_path_rate=0.0, model=None
):
    run = RunDirectory(Path(output), writes=processes.is_main)
    run.start(recipe)
    processes.wait()
    parts = recipe.accumulation * processes.world_size
    order = Order([IMAGES], recipe.batch_size, parts=parts, seed=recipe.seed)
    steps = order.steps_per_epoch
    model = model or make_model(recipe, drop_path_rate)
    return Loop(
        ToyTask(model, run, on_loss),
        model,
        lambda model: build_adamw(model, recipe.learning_rate, recipe.weight_decay),
        schedule_of(recipe, steps),
        partial(Feed, Images(hook), order, processes, collate=collate, workers=recipe.workers),
        steps_per_epoch=steps,
        images=IMAGES,
        recipe=recipe,
        run=run,
        processes=processes,
    )


def harm(step, kind):
    """Called with the loss of each step; at the given one, what can befall a process befalls it."""
    calls = iter(range(1000))

    def on_loss(loss):
        if next(calls) == step:
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif kind == "nan":
                return loss * math.nan
            else:
                os.kill(os.getpid(), getattr(signal, kind))
        return loss

    return on_loss


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("output")
    parser.add_argument("--harm-step", type=int, default=-1)
    parser.add_argument("--harm", default="kill")
    parser.add_argument("--drop-path", type=float, default=0.0)
    parser.add_argument("--double", action="store_true", help="compute in float64")
    add_recipe_arguments(parser, Recipe, ["toy"])
    arguments = parser.parse_args([*sys.argv[1:], "--recipe", "toy"])
    recipe = recipe_from_arguments(Recipe, {"toy": RECIPE}, arguments)
    torch.set_num_threads(1)
    if arguments.double:
        torch.set_default_dtype(torch.float64)
    with join_processes("cpu") as processes:
        on_loss = harm(arguments.harm_step, arguments.harm)
        loop = make_loop(recipe, arguments.output, processes, on_loss=on_loss, drop_path_rate=arguments.drop_path)
        loop.train()


if __name__ == "__main__":
    main()
