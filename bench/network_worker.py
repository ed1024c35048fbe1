"""Times one model run one way, in a process of its own, in turns with torchvision's ConvNeXt-T run eagerly.

Prints one line of JSON. A compiled variant shares its process with no other: compilers keep state, and what ran before
has changed rankings. The reference runs in every process, so that ratios of different processes can be compared.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import internimage
from internimage import deploy

REFERENCE = "convnext_tiny"
WAYS = ("eager", "prepared", "compiled", "compiled prepared", "compiled frozen", "compiled tuned", "packaged")
WAYS += ("packaged prepared",)
CACHE_BYTES = 2**27  # more than any cache holds, to make the caches cold

Call = Callable[[Tensor], Any]


def create(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name.startswith("internimage"):
        return internimage.create_model(name).eval()
    from torchvision import models

    model: nn.Module = models.get_model(name).eval()
    return model


def make(name: str, way: str, images: Tensor, folder: Path) -> Call:
    model = create(name)
    if way.endswith("prepared"):
        model = internimage.prepare_for_inference(model)
    if way.startswith("packaged"):
        program = deploy.export(model, images, batch=None)
        return deploy.load_package(deploy.package(program, folder / "model.pt2"))
    if way.startswith("compiled"):
        torch._inductor.config.freezing = way.endswith(("frozen", "tuned"))
        return torch.compile(model, fullgraph=True, mode="max-autotune" if way.endswith("tuned") else None)
    return model


def measure(calls: dict[str, Call], images: Tensor, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each call in random order, with caches as the call before left them, and with cold ones."""
    flush = torch.zeros(CACHE_BYTES // 4)
    jobs = [(name, cold) for name in calls for cold in (False, True)]
    times: dict[str, list[float]] = {f"{name} {'cold' if cold else 'hot'}": [] for name, cold in jobs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < 5:
        for name, cold in random.sample(jobs, len(jobs)):
            if cold:
                flush.add_(1)
            else:
                calls[name](images)
            start = time.perf_counter()
            calls[name](images)
            times[f"{name} {'cold' if cold else 'hot'}"].append(1e3 * (time.perf_counter() - start))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="internimage_t")
    parser.add_argument("--way", default="eager", choices=WAYS)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[-arguments.threads :])
    torch.set_num_threads(arguments.threads)
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(not arguments.way.startswith("compiled")):
        with torch.no_grad():
            start = time.perf_counter()
            call = make(arguments.model, arguments.way, images, Path(folder))
            call(images)
            setup = time.perf_counter() - start
            times = measure({"variant": call, "reference": create(REFERENCE)}, images, arguments.seconds)
    print(json.dumps({**vars(arguments), "torch": torch.__version__, "setup_s": setup, "times_ms": times}))


if __name__ == "__main__":
    main()
