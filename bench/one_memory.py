"""Peak growth of resident memory over one pass of InternImage at a detector's image size, in a fresh process; MiB."""

import argparse
from pathlib import Path

import torch
from one_model import pin

from internimage import create_model, prepare_for_inference
from internimage.ops import use_backend

WAYS = ("kernel", "pure PyTorch", "prepared")
PASSES = ("inference", "training", "training with checkpoints")


def resident_mib(field: str) -> float:
    """VmRSS (now) or VmHWM (highest so far) of this process; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def growth(model_name: str, way: str, kind: str, size: tuple[int, int]) -> float:
    torch.manual_seed(0)
    model = create_model(model_name, features_only=True)
    model.train(kind != "inference")
    if way == "prepared":
        model = prepare_for_inference(model.eval())
    if kind == "training with checkpoints":
        model.set_grad_checkpointing()

    def once(*sides: int) -> None:
        with use_backend("torch" if way == "pure PyTorch" else "native"), torch.set_grad_enabled(kind != "inference"):
            maps = model(torch.randn(1, 3, *sides))
            if kind != "inference":
                sum(m.mean() for m in maps).backward()

    once(64, 64)  # what is allocated once: kernels, gradients, scratch memory
    before = resident_mib("VmRSS")
    once(*size)
    return resident_mib("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("kind", choices=PASSES)
    parser.add_argument("--model", default="internimage_t")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1216))
    arguments = parser.parse_args()
    pin(1)
    print(f"{growth(arguments.model, arguments.way, arguments.kind, tuple(arguments.size)):.1f}")


if __name__ == "__main__":
    main()
