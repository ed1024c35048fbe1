"""Small segmentors from scratch on a folder of labelled pictures, in the same loop and epochs; a table at the end.

python bench/segmentation.py --data streets --output runs/streets
python bench/segmentation.py --data streets --output runs/streets --models upernet:convnext_atto

A model is a head and a backbone; names of backbones that are not of this library are timm's (pip install timm). The
same command again goes on where it stopped; with --table it only prints what there is.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from internimage.tasks.segmentation.models import on_backbone
from internimage.tasks.segmentation.recipes import RECIPES, SegmentationRecipe
from internimage.tasks.segmentation.train import build_model, train
from internimage.tasks.training.distributed import Processes
from internimage.variants import VARIANTS

HEADS = {"upernet": "quick", "mask2former": "quick_mask2former"}  # recipes


def make_model(backbone: str, recipe: SegmentationRecipe, num_classes: int) -> nn.Module:
    """The recipe's model, on its own backbone or on one of timm's, initialised by the recipe's seed."""
    if backbone in VARIANTS:
        return build_model(recipe, num_classes)
    import timm

    torch.manual_seed(recipe.seed)
    features = timm.create_model(backbone, features_only=True, drop_path_rate=recipe.drop_path_rate)
    return on_backbone(features, recipe.config, num_classes)


def run(model: str, epochs: int, data: Path, output: Path) -> None:
    """Train one model; its folder tells its parameters."""
    head, backbone = model.split(":")
    recipe = replace(RECIPES[HEADS[head]], epochs=epochs, eval_epochs=max(1, epochs // 4))
    if backbone in VARIANTS:
        recipe = replace(recipe, model=f"{head}_{backbone}_small")

    def build(recipe: SegmentationRecipe, num_classes: int) -> nn.Module:
        built = make_model(backbone, recipe, num_classes)
        parameters = sum(parameter.numel() for parameter in built.parameters())
        (output / "facts.json").write_text(json.dumps({"parameters": parameters}))
        return built

    train(recipe, data, output, Processes(torch.device("cpu")), make_model=build)


def row(model: str, output: Path) -> str:
    """What a finished run gave: parameters, speed in training, and the figures of the best weights."""
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    speeds = sorted(row["images_per_second"] for row in rows if "loss" in row)
    metrics = json.loads((output / "metrics.json").read_text())
    parameters = json.loads((output / "facts.json").read_text())["parameters"]
    figures = "".join(f"{metrics[name]:9.2%}" for name in ("miou", "macc", "aacc"))
    return f"{model:32}{parameters / 1e6:8.2f} M{speeds[len(speeds) // 2]:9.2f}{figures}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder that `internimage train segmentation` takes")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="HEAD:BACKBONE",
        default=[f"{head}:{backbone}" for head in HEADS for backbone in ("internimage_femto", "convnext_atto")],
    )
    parser.add_argument("--epochs", type=int, default=RECIPES["quick"].epochs)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="train nothing, print the table of what there is")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.table:
        for model in arguments.models:
            run(model, arguments.epochs, arguments.data, arguments.output / model.replace(":", "_"))
    print(f"{'':32}{'parameters':>10}{'images/s':>9}{'mIoU':>9}{'mAcc':>9}{'aAcc':>9}")
    for model in arguments.models:
        print(row(model, arguments.output / model.replace(":", "_")))


if __name__ == "__main__":
    main()
