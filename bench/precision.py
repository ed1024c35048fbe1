"""Accuracy and speed of a classifier in each precision: python bench/precision.py --checkpoint RUN --data FOLDER

FOLDER has train/CLASS/*.jpg, of which 128 give the scales of int8, and val/CLASS/*.jpg, by which accuracy is measured.
With --packages the models are compiled as well. One thread.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from internimage.deploy import TOLERANCES, Deployed, load_artifact, quantise, save_artifact
from internimage.tasks import exportable
from internimage.tasks.artifact_pictures import picture_inputs
from internimage.tasks.images import read_image

BATCH = 32


def read(paths: Sequence[Path], task: dict[str, Any]) -> Tensor:
    return torch.cat([picture_inputs(read_image(path), task)[0] for path in paths])


@torch.no_grad()
def logits_of(model: Callable[[Tensor], tuple[Tensor]], images: Tensor) -> tuple[Tensor, float]:
    """The logits, and the seconds of an image."""
    model(images[:BATCH])
    start = time.perf_counter()
    logits = torch.cat([model(batch)[0] for batch in images.split(BATCH)])
    return logits, (time.perf_counter() - start) / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--packages", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    def load() -> exportable.Exportable:
        return exportable.load(None, arguments.checkpoint)

    task = {"pixels": "uint8", **load().task}
    train, val = (sorted((arguments.data / part).glob("*/*")) for part in ("train", "val"))
    chosen = np.random.default_rng(0).permutation(len(train))[:128]
    calibration = read([train[i] for i in chosen], task)
    images, labels = read(val, task), torch.tensor([task["classes"].index(path.parent.name) for path in val])

    exact = Deployed(load().model, pixels="uint8").eval()
    models: dict[str, Any] = {"float32": exact}
    for precision in ("bfloat16", "float16"):
        models[precision] = Deployed(load().model, pixels="uint8", precision=precision).eval()
    models["int8"] = quantise(exact, [(batch,) for batch in calibration.split(BATCH)])
    with tempfile.TemporaryDirectory() as folder:
        if arguments.packages:
            for name, model in list(models.items()):
                path = Path(folder) / name
                save_artifact(model, images[:1], path, prepare=False, tolerance=TOLERANCES[name])
                models[f"{name}, package"] = load_artifact(path)
            models["float32, prepared package"] = load_artifact(save_artifact(exact, images[:1], Path(folder) / "p"))
        expected, _ = logits_of(exact, images)
        print(f"{len(val)} images\n\n| | top-1 | same label as float32 | ms an image |\n|---|---|---|---|")
        for name, model in models.items():
            logits, seconds = logits_of(model, images)
            right, same = (float((logits.argmax(1) == x).float().mean()) for x in (labels, expected.argmax(1)))
            print(f"| {name} | {right:.1%} | {same:.1%} | {1e3 * seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
