"""Peak growth of resident memory over one pass of InternImage-T at a detector's image size, a process for each row."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from interleaved import Table
from one_model import pin
from pytest_benchmark.fixture import BenchmarkFixture

from internimage import create_model, prepare_for_inference
from internimage.ops import use_backend

SIZE = (800, 1216)
WAYS = ("pure PyTorch", "kernel", "prepared")
PASSES = ("inference", "training", "training with checkpoints")


@pytest.mark.parametrize("kind", PASSES)
@pytest.mark.timeout(1800)
def test_memory(benchmark: BenchmarkFixture, tables: list[Table], kind: str) -> None:
    growth, missing = {}, {}
    for way in WAYS if kind == "inference" else WAYS[:-1]:
        done = subprocess.run([sys.executable, __file__, way, kind], capture_output=True, text=True, check=False)
        if done.returncode:
            missing[way] = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        else:
            growth[way] = [float(done.stdout)]
    table = Table(f"peak memory of {kind} at {SIZE[0]}x{SIZE[1]}, one image", growth, missing, unit="MiB")
    tables.append(table)
    benchmark.extra_info.update(mib=table.medians, ratios=table.ratios, missing=missing)
    benchmark.pedantic(lambda: None)


def measure(way: str, kind: str) -> float:
    """MiB by which the process grows."""
    torch.manual_seed(0)
    model = create_model("internimage_t", features_only=True)
    model.train(kind != "inference")
    if way == "prepared":
        model = prepare_for_inference(model)
    model.set_grad_checkpointing(kind == "training with checkpoints")

    def once(*sides: int) -> None:
        with use_backend("torch" if way == "pure PyTorch" else "native"), torch.set_grad_enabled(kind != "inference"):
            maps = model(torch.randn(1, 3, *sides))
            if kind != "inference":
                torch.stack([stage.mean() for stage in maps]).sum().backward()

    once(64, 64)  # what is allocated once: kernels, gradients, scratch memory
    before = resident_mib("VmRSS")
    once(*SIZE)
    return resident_mib("VmHWM") - before


def resident_mib(field: str) -> float:
    """VmRSS (now) or VmHWM (the highest so far) of this process; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("kind", choices=PASSES)
    arguments = parser.parse_args()
    pin(1)
    print(measure(arguments.way, arguments.kind))
