"""Small models from scratch on a folder of images, in the same loop, augmentation and epochs; a table at the end.

python bench/from_scratch.py --data photos --output runs/from-scratch
python bench/from_scratch.py --data photos --output runs/from-scratch --models internimage_femto convnext_atto resnet10t

Names that are not of this library are timm's (pip install timm). The same command again goes on where it stopped; with
--table it only prints what there is.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from internimage.tasks.classification.recipes import RECIPES, ClassificationRecipe
from internimage.tasks.classification.train import build_model, train
from internimage.tasks.training.distributed import Processes
from internimage.variants import VARIANTS


def make_model(name: str, recipe: ClassificationRecipe, num_classes: int) -> nn.Module:
    """The model of that name, of this library or of timm, initialised by the recipe's seed."""
    if name in VARIANTS:
        return build_model(recipe, num_classes)
    import timm

    torch.manual_seed(recipe.seed)
    rate = {"drop_path_rate": recipe.drop_path_rate}
    model: nn.Module = timm.create_model(name, num_classes=num_classes, **rate)
    return model


def run(name: str, recipe: ClassificationRecipe, data: Path, output: Path) -> None:
    """Train one model; its folder tells its parameters and the seconds that it took, over all starts."""
    if name in VARIANTS:
        recipe = replace(recipe, model=name)
    start = time.perf_counter()
    train(
        recipe,
        data,
        output,
        Processes(torch.device("cpu")),
        make_model=lambda recipe, num_classes: make_model(name, recipe, num_classes),
    )
    facts = output / "facts.json"
    if not facts.exists():
        model = make_model(name, recipe, len(json.loads((output / "metrics.json").read_text())["classes"]))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        facts.write_text(json.dumps({"parameters": parameters, "seconds": time.perf_counter() - start}))


@dataclass(frozen=True)
class Row:
    name: str
    parameters: int
    images_per_second: float
    best_top1: float
    last_top1: float
    best_macro: float
    last_macro: float

    def __str__(self) -> str:
        shown = f"{self.name:20}{self.parameters / 1e6:8.2f} M{self.images_per_second:9.1f}"
        return shown + "".join(f"{x:9.1%}" for x in (self.best_top1, self.last_top1, self.best_macro, self.last_macro))


def row(name: str, output: Path) -> Row:
    """What a finished run gave: of the averaged weights, at the best epoch by top-1 and at the last."""
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    speeds = sorted(row["images_per_second"] for row in rows if "loss" in row)
    epochs = [row for row in rows if "ema_top1" in row]
    best = max(epochs, key=lambda row: row["ema_top1"])
    last = epochs[-1]
    return Row(
        name,
        json.loads((output / "facts.json").read_text())["parameters"],
        speeds[len(speeds) // 2],
        best["ema_top1"],
        last["ema_top1"],
        best["ema_macro"],
        last["ema_macro"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="holds train/CLASS/*.jpg and val/CLASS/*.jpg")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["internimage_femto", "convnext_atto"])
    parser.add_argument("--epochs", type=int, default=RECIPES["quick"].epochs)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="train nothing, print the table of what there is")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = replace(RECIPES["quick"], epochs=arguments.epochs, seed=arguments.seed)
    if not arguments.table:
        for name in arguments.models:
            run(name, recipe, arguments.data, arguments.output / name)
    titles = ("best", "last", "best mean", "last mean")
    print(f"{'':20}{'parameters':>10}{'images/s':>9}" + "".join(f"{title:>9}" for title in titles))
    for name in arguments.models:
        print(row(name, arguments.output / name))


if __name__ == "__main__":
    main()
