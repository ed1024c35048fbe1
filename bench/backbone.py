"""InternImage at 224, forward, by every way of running it, beside its peers in torchvision; a process for each row."""

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
import torch
from interleaved import Table
from one_model import create, pin
from pytest_benchmark.fixture import BenchmarkFixture

from internimage import prepare_for_inference

PEERS = ("convnext_tiny", "swin_t", "resnet50")
EAGER = [
    *((peer, "eager") for peer in PEERS),
    *((f"internimage_{letter}", way) for letter in "tsb" for way in ("eager", "prepared")),
]
COMPILED = [
    *(("convnext_tiny", way) for way in ("compiled", "compiled frozen")),
    ("swin_t", "compiled frozen"),
    *(
        ("internimage_t", way)
        for way in ("compiled", "compiled frozen", "compiled prepared", "packaged", "packaged prepared")
    ),
]


def row(model: str, way: str, reference: str, batch: int, threads: int) -> dict[str, list[float]] | str:
    """Seconds as `one_model` measures them, or why there are none."""
    options = ["--reference", reference, "--batch", str(batch), "--threads", str(threads)]
    script = Path(__file__).with_name("one_model.py")
    done = subprocess.run([sys.executable, script, model, way, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [EAGER, COMPILED], ids=["eager", "compiled"])
@pytest.mark.timeout(7200)
def test_forward(
    benchmark: BenchmarkFixture, tables: list[Table], batch: int, threads: int, rows: list[tuple[str, str]]
) -> None:
    peers = importlib.util.find_spec("torchvision") is not None
    reference = PEERS[0] if peers else "internimage_t"
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    missing: dict[str, str] = {}
    for model, way in random.sample(rows, len(rows)):
        result = row(model, way, reference, batch, threads) if peers or model not in PEERS else "install torchvision"
        if isinstance(result, str):
            missing[f"{model} {way}"] = result
        else:
            found[model, way] = result
    # The reference's time is what all processes have in common.
    common = median(seconds for result in found.values() for seconds in result["reference"])
    times = {f"{reference} eager, as reference": [common]}
    for model, way in (name for name in rows if name in found):
        scale = common / median(found[model, way]["reference"])
        for cache in ("hot", "cold"):
            times[f"{model} {way}, {cache}"] = [scale * seconds for seconds in found[model, way][cache]]
    table = Table(f"forward at 224, batch {batch}, {threads} threads", times, missing)
    tables.append(table)
    setup = {" ".join(name): result["setup_s"] for name, result in found.items()}
    benchmark.extra_info.update(medians=table.medians, ratios=table.ratios, missing=missing, setup_s=setup)
    pin(threads)
    prepared, images = prepare_for_inference(create("internimage_t")), torch.randn(batch, 3, 224, 224)
    benchmark.pedantic(torch.no_grad()(prepared), (images,), rounds=5, warmup_rounds=1)
