"""Does pre-training help? Train on half of the classes, fine-tune on the others; compare with training from scratch.

python bench/fine_tuning.py --data photos --output runs/fine-tuning

The classes, in the order of their names, are dealt out alternately. Fine-tuning has a fresh classifier and layer-wise
learning rates (decay 0.9); training from scratch has as many steps, by the quick recipe. The same command again goes on
where it stopped.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from internimage.tasks.classification.recipes import RECIPES, ClassificationRecipe
from internimage.tasks.classification.train import train
from internimage.tasks.training.distributed import Processes

LAYER_DECAY = 0.9


def run(recipe: ClassificationRecipe, data: Path, output: Path, classes: list[str]) -> dict[str, float]:
    """Train on some classes; the figures of the last epoch, of the averaged weights."""
    output.parent.mkdir(parents=True, exist_ok=True)
    listed = output.with_suffix(".classes.txt")
    listed.write_text("".join(f"{name}\n" for name in classes))
    train(recipe, data, output, Processes(torch.device("cpu")), classes=listed)
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    last: dict[str, float] = [row for row in rows if "ema_top1" in row][-1]
    return last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="holds train/CLASS/*.jpg and val/CLASS/*.jpg")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default="internimage_atto")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--pretraining-epochs", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=RECIPES["quick"].learning_rate, help="of fine-tuning")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    names = sorted(path.name for path in (arguments.data / "train").iterdir() if path.is_dir())
    first, others = names[::2], names[1::2]
    scratch = replace(RECIPES["quick"], model=arguments.model, image_size=arguments.image_size, epochs=arguments.epochs)
    pretraining = replace(scratch, epochs=arguments.pretraining_epochs)
    tuning = replace(
        scratch,
        init=str(arguments.output / "pretraining"),
        init_classifier="fresh",
        learning_rate=arguments.learning_rate,
        layer_decay=LAYER_DECAY,
    )
    figures = {
        f"pre-training on {', '.join(first)}": run(
            pretraining, arguments.data, arguments.output / "pretraining", first
        ),
        f"fine-tuned on {', '.join(others)}": run(tuning, arguments.data, arguments.output / "fine-tuned", others),
        "from scratch on the same": run(scratch, arguments.data, arguments.output / "scratch", others),
    }
    for name, row in figures.items():
        print(f"{name}: top-1 {row['ema_top1']:.1%}, mean accuracy of the classes {row['ema_macro']:.1%}")


if __name__ == "__main__":
    main()
