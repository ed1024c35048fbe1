"""What does pre-training give? One small model, one budget of steps and one augmentation for every way of it.

python bench/pretraining.py --data clothing --streets camvid --output runs/pretraining
python bench/pretraining.py --data clothing --streets camvid --output runs/trial --shrink 20 --seeds 0

Arms: no pre-training; images without labels (the map of another view by a momentum copy); labels as categories; names
of the classes as texts; all three targets at once with two images mixed into one, as M3I has it ("mixed"), and, where
--arms asks for it, with images as they are ("joint"). Then, for each: a linear probe and fine-tuning on a tenth and on
all of the labels of the same photographs, and fine-tuning as the backbone of UperNet on street scenes. The same command
again goes on where it stopped, and with --table only prints what there is. --arms, --seeds and --parts share the work
out.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from internimage import create_model, load_checkpoint
from internimage.tasks import cli
from internimage.tasks.classification import recipes as classification
from internimage.tasks.classification import train as classify
from internimage.tasks.images import SUFFIXES, prepare, read_image
from internimage.tasks.pretraining import recipes as pretraining
from internimage.tasks.pretraining import train as pretrain
from internimage.tasks.segmentation import recipes as segmentation
from internimage.tasks.segmentation import train as segment
from internimage.tasks.training.distributed import Processes

ALONE = Processes(torch.device("cpu"))
SIZE = 64  # pixels
BATCH = 64
PRETRAINING_STEPS = 800
FINE_TUNING_STEPS = {"tenth": 160, "whole": 480}  # of 32 images
STREET_STEPS = 1500  # of 8 images
STREETS = {"scale": (240, 180), "crop": (128, 128)}

TARGETS: dict[str, dict[str, float]] = {
    "images": {"dense_weight": 1.0},
    "categories": {"category_weight": 1.0},
    "texts": {"text_weight": 1.0},
    "joint": {"dense_weight": 1.0, "category_weight": 1.0, "text_weight": 1.0},
    "mixed": {"dense_weight": 1.0, "category_weight": 1.0, "text_weight": 1.0, "mixed_images": 2},
}
ARMS = ("scratch", *TARGETS)
FIGURES = {
    "probe_tenth": "probe, 10 %",
    "probe_whole": "probe, 100 %",
    "tuned_tenth": "tuned, 10 %",
    "tuned_whole": "tuned, 100 %",
    "streets": "mIoU streets",
}


def pretraining_recipe(arm: str, model: str, seed: int, shrink: int) -> pretraining.PretrainingRecipe:
    """All arms differ in the targets, and in whether images are mixed, alone."""
    nothing = {"dense_weight": 0.0, "category_weight": 0.0, "text_weight": 0.0, "mixed_images": 1}
    steps = PRETRAINING_STEPS // shrink
    return replace(
        pretraining.RECIPES["quick"],
        model=model,
        image_size=SIZE,
        batch_size=BATCH,
        epochs=None,
        warmup_epochs=0.0,
        steps=steps,
        warmup_steps=steps // 10,
        eval_steps=steps,
        save_steps=100,
        log_steps=10,
        workers=0,
        rand_augment="",
        seed=seed,
        **nothing | TARGETS[arm],
    )


def tuning_recipe(
    share: str, model: str, seed: int, shrink: int, init: str | None
) -> classification.ClassificationRecipe:
    steps = FINE_TUNING_STEPS[share] // shrink
    return replace(
        classification.RECIPES["quick"],
        model=model,
        image_size=SIZE,
        **_schedule(steps),
        rand_augment="",
        init=init,
        seed=seed,
    )


def _schedule(steps: int) -> dict[str, Any]:
    """Values of a recipe for so many steps, looked at when they are over."""
    return {
        "epochs": None,
        "warmup_epochs": 0.0,
        "steps": steps,
        "warmup_steps": steps // 10,
        "eval_steps": steps,
        "save_steps": steps,
        "workers": 0,
        "ema_decay": None,
    }


def street_recipe(model: str, seed: int, shrink: int, init: str | None) -> segmentation.SegmentationRecipe:
    """The same for every arm."""
    steps = STREET_STEPS // shrink
    return replace(
        segmentation.RECIPES["quick"],
        model=f"upernet_{model}_small",
        **_schedule(steps),
        init=init,
        seed=seed,
        **STREETS,
    )


def pictures(folder: Path) -> list[tuple[Path, str]]:
    """The pictures of folders of classes, with their classes."""
    return [(path, path.parent.name) for path in sorted(folder.glob("*/*")) if path.suffix.lower() in SUFFIXES]


def write_tenth(data: Path, folder: Path, seed: int) -> None:
    """Links to a tenth of the training pictures of each class, and to all for validation."""
    rng = np.random.default_rng(seed)
    by_class: dict[str, list[Path]] = {}
    for path, name in pictures(data / "train"):
        by_class.setdefault(name, []).append(path)
    for name, paths in by_class.items():
        (folder / "train" / name).mkdir(parents=True, exist_ok=True)
        for index in rng.permutation(len(paths))[: round(len(paths) / 10)]:
            link = folder / "train" / name / paths[index].name
            if not link.exists():
                link.symlink_to(paths[index].resolve())
    if not (folder / "val").exists():
        (folder / "val").symlink_to((data / "val").resolve())


@torch.no_grad()
def features(model: torch.nn.Module, files: list[tuple[Path, str]]) -> NDArray[np.float32]:
    """[N, C], the last stage's map on average."""
    batches = [files[first : first + 64] for first in range(0, len(files), 64)]
    found = []
    for batch in batches:
        images = torch.stack([prepare(read_image(path), SIZE) for path, _ in batch])
        found.append(model.forward_features(images).mean((1, 2)))
    return torch.cat(found).numpy()


def probe(model: str, weights: str | None, seed: int, train: Path, val: Path) -> float:
    """Accuracy of a logistic regression on what the frozen encoder tells."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    torch.manual_seed(seed)
    encoder = create_model(model, num_classes=0)
    if weights is not None:
        load_checkpoint(encoder, weights)
    known, asked = pictures(train), pictures(val)
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    regression.fit(features(encoder.eval(), known), [name for _, name in known])
    return float(regression.score(features(encoder, asked), [name for _, name in asked]))


def last(run: Path, name: str) -> float:
    """The figure of the last evaluation: nothing is chosen by it."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return float([row for row in rows if name in row][-1][name])


@dataclass(frozen=True)
class Arm:
    """One way of pre-training with one seed. Each part of it is done once: its results lie in a file."""

    name: str
    seed: int
    arguments: argparse.Namespace

    @property
    def place(self) -> Path:
        folder: Path = self.arguments.output / f"seed{self.seed}" / self.name
        return folder

    @property
    def init(self) -> str | None:
        return None if self.name == "scratch" else str(self.place / "pretraining" / "best.safetensors")

    def pretrain(self) -> None:
        if self.name != "scratch":
            recipe = pretraining_recipe(self.name, self.arguments.model, self.seed, self.arguments.shrink)
            self._once("pretraining", {}, pretrain.train, recipe, self.arguments.output / "shards")

    def classify(self) -> None:
        tenth = self.arguments.output / f"seed{self.seed}" / "tenth"
        write_tenth(self.arguments.data, tenth, self.seed)
        for share, data in (("tenth", tenth), ("whole", self.arguments.data)):
            recipe = tuning_recipe(share, self.arguments.model, self.seed, self.arguments.shrink, self.init)
            self._once(share, {f"tuned_{share}": "top1"}, classify.train, recipe, data)
            self._once(f"probe_{share}", {}, self._probe, share, data)

    def segment(self) -> None:
        recipe = street_recipe(self.arguments.model, self.seed, self.arguments.shrink, self.init)
        self._once("streets", {"streets": "miou"}, segment.train, recipe, self.arguments.streets)

    def _probe(self, share: str, data: Path, output: Path, processes: Processes) -> dict[str, float]:
        accuracy = probe(self.arguments.model, self.init, self.seed, data / "train", data / "val")
        return {f"probe_{share}": accuracy}

    def _once(self, part: str, figures: dict[str, str], do: Callable[..., Any], *values: object) -> None:
        path = self.place / f"{part}.json"
        if not path.is_file():
            start = time.process_time()
            found = do(*values, self.place / part, ALONE) or {}
            found |= {figure: last(self.place / part, logged) for figure, logged in figures.items()}
            path.write_text(json.dumps(found | {"cpu_seconds": time.process_time() - start}) + "\n")

    def figures(self) -> dict[str, float]:
        """What there is so far."""
        found: dict[str, float] = {}
        for path in self.place.glob("*.json"):
            found |= json.loads(path.read_text())
        return found


def table(arguments: argparse.Namespace) -> list[str]:
    """Mean, standard deviation and number of the seeds that there are."""
    lines = [f"{'':12}" + "".join(f"{title:>19}" for title in FIGURES.values())]
    for name in ARMS:
        results = [Arm(name, seed, arguments).figures() for seed in arguments.seeds]
        cells = []
        for figure in FIGURES:
            values = np.array([result[figure] for result in results if figure in result])
            deviation = values.std(ddof=1) if len(values) > 1 else np.nan
            cells.append(f"{values.mean():8.1%} ± {deviation * 100:4.1f} ({len(values)})" if len(values) else "")
        lines.append(f"{name:12}" + "".join(f"{cell:>19}" for cell in cells))
    return lines


PARTS = {"classification": Arm.classify, "streets": Arm.segment}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="holds train/CLASS/*.jpg and val/CLASS/*.jpg")
    parser.add_argument(
        "--streets", type=Path, required=True, help="a folder that `internimage train segmentation` takes"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default="internimage_atto")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[arm for arm in ARMS if arm != "joint"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--shrink", type=int, default=1, help="divide all steps by this, to try the script")
    parser.add_argument("--table", action="store_true", help="train nothing, print the table of what there is")
    arguments = parser.parse_args()
    if not arguments.table:
        torch.set_num_threads(1)
        arguments.output.mkdir(parents=True, exist_ok=True)
        words = ["--text", "a photo of a {}", "--samples", "500", "--workers", "1"]
        pattern = arguments.output / "shards" / "train-%03d.tar"
        if cli.main(["shard", "folder", str(arguments.data / "train"), str(pattern), *words]):
            raise SystemExit(1)
        arms = [Arm(name, seed, arguments) for seed in arguments.seeds for name in arguments.arms]
        for part in arguments.parts:
            for arm in arms:
                arm.pretrain()
                PARTS[part](arm)
    print("\n".join(table(arguments)))


if __name__ == "__main__":
    main()
