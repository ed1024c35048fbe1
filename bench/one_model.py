"""Times one model run one way, in a process of its own, in turns with a reference model run eagerly; prints JSON.

A compiled variant shares its process with no other: compilers keep state, and what ran before has changed rankings.
The reference runs in every process, so that figures of different processes can be brought to one scale.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from interleaved import compare
from torch import Tensor, nn

import internimage
from internimage import deploy

WAYS = ("eager", "prepared", "compiled", "compiled frozen", "compiled prepared", "packaged", "packaged prepared")
CACHE_BYTES = 2**27  # more than any cache holds

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
        torch._inductor.config.freezing = way.endswith("frozen")
        return torch.compile(model, fullgraph=True)
    return model


def pin(threads: int) -> None:
    """As many threads, each with a core of its own where the operating system lets one choose."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    torch.set_num_threads(threads)


def measure(call: Call, reference: Call, images: Tensor, seconds: float) -> dict[str, list[float]]:
    """Seconds of single calls: with the caches as the same call left them, and cold."""
    flush = torch.zeros(CACHE_BYTES // 4)

    def job(function: Call) -> Callable[[], Any]:
        return lambda: function(images)

    jobs = {"hot": job(call), "cold": job(call), "reference": job(reference)}
    before = {"hot": jobs["hot"], "cold": lambda: flush.add_(1), "reference": jobs["reference"]}
    return compare("", jobs, before=before, seconds=seconds).seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--reference", default="convnext_tiny")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parser.parse_args()
    pin(arguments.threads)
    images = torch.randn(arguments.batch, 3, 224, 224)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        start = time.perf_counter()
        call = make(arguments.model, arguments.way, images, Path(folder))
        call(images)
        setup_s = time.perf_counter() - start
        times = measure(call, create(arguments.reference), images, arguments.seconds)
    print(json.dumps({"setup_s": setup_s, **times}))


if __name__ == "__main__":
    main()
