"""Trains DINO on a small composite backbone, in as many processes as torchrun starts: DATA OUTPUT [STRATEGY]."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from small_detectors import small_dino

from internimage.tasks.detection import DINO
from internimage.tasks.detection.recipes import RECIPES, DetectionRecipe
from internimage.tasks.detection.train import train
from internimage.tasks.training.dense_models import prepare_to_train
from internimage.tasks.training.distributed import join_processes

RECIPE = replace(
    RECIPES["quick_dino"],
    epochs=2,
    batch_size=4,
    warmup_steps=0,
    short_sides=(64,),
    long_side=96,
    test_scale=(96, 64),
    ema_decay=None,
    drop_path_rate=0.0,
    workers=0,
    log_steps=1,
    eval_epochs=2,
    compile="off",
)


def build(recipe: DetectionRecipe, num_classes: int) -> DINO:
    model = small_dino(composite=True, num_classes=num_classes)
    prepare_to_train(model, recipe, init_head="none", classifiers=())
    return model


def main() -> None:
    data, output, strategy = sys.argv[1:4]
    torch.set_num_threads(1)
    recipe = replace(RECIPE, strategy=strategy, frozen_stages=(0,))
    with join_processes("cpu") as processes:
        train(recipe, Path(data), Path(output), processes, make_model=build)


if __name__ == "__main__":
    main()
