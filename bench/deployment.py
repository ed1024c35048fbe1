"""Ways to deploy a model, beside a peer of timm: time of a call, time to the first result, time to compile.

    python bench/deployment.py --runner build --folder deployed           the whole table, about half an hour
    python bench/deployment.py --runner build --folder deployed --models internimage_atto --rounds 3
    python bench/deployment.py --runner build --folder deployed --cold    time from process start to the first result
    python bench/deployment.py --compile                                  whole network against its blocks

--runner is the folder where internimage/deploy/runner was built. Artifacts are made once and kept in --folder. Every
way has a process of its own; all of them are measured in turns, in random order.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

WAYS = ("eager", "prepared", "compiled", "compiled prepared", "package", "package in C++", "onnxruntime")
OF_PEERS = ("eager", "compiled", "package", "package in C++", "onnxruntime")
FORMATS = {"package": "aoti", "package in C++": "aoti", "onnxruntime": "onnx"}
CALLS = {1: 15, 8: 5}  # of a measurement, of which the median counts, by batch size
SIZE = 224


def create(name: str) -> Any:
    import torch

    import internimage

    torch.manual_seed(0)
    if name.startswith("internimage"):
        return internimage.create_model(name).eval()
    import timm

    return timm.create_model(name).eval()


def artifact(name: str, way: str, folder: Path) -> Path:
    """Made if it is not there yet."""
    import torch

    from internimage.deploy import Deployed, save_artifact

    path = folder / f"{name}-{FORMATS[way]}"
    if not path.exists():
        model = Deployed(create(name)).eval()
        save_artifact(model, torch.randn(1, 3, SIZE, SIZE), path, format=FORMATS[way], batch=(1, max(CALLS)))
    return path


def make(name: str, way: str, folder: Path) -> Callable[[Any], Any]:
    """A model run one way, as a function of images."""
    import torch

    from internimage import prepare_for_inference
    from internimage.deploy import load_artifact

    if way in FORMATS:
        return load_artifact(artifact(name, way, folder))
    model = create(name)
    if way.endswith("prepared"):
        model = prepare_for_inference(model)
    return torch.compile(model, fullgraph=True) if way.startswith("compiled") else model


def work(name: str, way: str, batch: int, folder: Path) -> None:
    """For each line of standard input, print the median seconds of some calls."""
    import torch

    torch.set_num_threads(1)
    with torch.no_grad():
        call, images = make(name, way, folder), torch.randn(batch, 3, SIZE, SIZE)
        for _ in range(3):
            call(images)
        print("ready", flush=True)
        for _ in sys.stdin:
            print(median(timed(lambda: call(images)) for _ in range(CALLS[batch])), flush=True)


def timed(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


class Worker:
    """A process that measures one way."""

    def __init__(self, name: str, way: str, batch: int, folder: Path, runner: Path) -> None:
        self.process = None
        if way == "package in C++":
            path = artifact(name, way, folder)
            options = ["--size", f"{SIZE}x{SIZE}", "--requests", str(CALLS[batch]), "--batch", str(batch), "--alike"]
            self.command = [str(runner / "internimage_load"), str(path), *options]
            return
        command = [sys.executable, __file__, "--work", name, way, str(batch), "--folder", str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"{name} {way}: exit status {self.process.wait()}")

    def seconds(self) -> float:
        if self.process is None:
            done = subprocess.run(self.command, capture_output=True, text=True, check=True)
            found: float = json.loads(done.stdout)["median_s"]
            return found
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def close(self) -> None:
        if self.process is not None:
            self.process.communicate()


def compare(models: list[str], batch: int, rounds: int, folder: Path, runner: Path) -> None:
    """Print the table of one batch size."""
    rows = [(name, way) for name in models for way in (WAYS if name.startswith("internimage") else OF_PEERS)]
    workers = {row: Worker(*row, batch, folder, runner) for row in rows}
    times: dict[tuple[str, str], list[float]] = {row: [] for row in rows}
    for _ in range(rounds):
        for row in random.sample(rows, len(rows)):
            times[row].append(workers[row].seconds())
    for worker in workers.values():
        worker.close()
    reference = median(times[models[-1], "eager"])
    print(f"\nbatch {batch}, {SIZE} pixels, one thread; relative to {models[-1]} eager\n\n| | ms | |\n|---|---|---|")
    for (name, way), seconds in times.items():
        print(f"| {name} {way} | {1e3 * median(seconds):.1f} | {median(seconds) / reference:.2f} |")


def first(name: str, way: str, folder: Path, compiled: str) -> None:
    """One result, as a server that starts computes it."""
    import torch

    from internimage.deploy import load_compiled, save_compiled

    torch.set_num_threads(1)
    if compiled and Path(compiled).exists():
        load_compiled(compiled)
    with torch.no_grad():
        make(name, way, folder)(torch.randn(1, 3, SIZE, SIZE))
    if compiled and not Path(compiled).exists():
        save_compiled(compiled)


def cold(name: str, rounds: int, folder: Path, runner: Path) -> None:
    """Print the seconds from the start of a process to its first result."""
    with tempfile.TemporaryDirectory() as temporary:
        caches = [Path(temporary) / "warm", *(Path(temporary) / f"fresh{i}" for i in range(rounds))]
        saved = Path(temporary) / "compiled"
        script = [sys.executable, __file__, "--first", name]

        def start(way: str, cache: Path, compiled: str = "") -> float:
            command = [*script, way, compiled, "--folder", str(folder)]
            if way == "package in C++":
                command = [str(runner / "internimage_run"), str(artifact(name, way, folder))]
            environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache)}
            return timed(lambda: subprocess.run(command, env=environment, check=True, capture_output=True))

        artifact(name, "package", folder)
        rows = {"compiled, nothing cached": [start("compiled", caches[0], str(saved))]}
        for i in range(rounds):
            found = {
                "eager": start("eager", caches[0]),
                "compiled, warm cache": start("compiled", caches[0]),
                "compiled, work taken along": start("compiled", caches[1 + i], str(saved)),
                "package": start("package", caches[0]),
                "package in C++": start("package in C++", caches[0]),
            }
            for row, seconds in found.items():
                rows.setdefault(row, []).append(seconds)
        print(f"\n{name}: from process start to the first result, batch 1\n\n| | s |\n|---|---|")
        for row, times in rows.items():
            print(f"| {row} | {median(times):.1f} |")


_COMPILE = """
import os, sys, time, torch
from internimage import create_model, prepare_for_inference
from internimage.deploy import compile_blocks
torch.set_num_threads(1)
with torch.no_grad():
    torch.compile(lambda x: x.sin().cumsum(0))(torch.ones(99))  # the compiler itself starts up
    model, image = create_model(sys.argv[2]).eval(), torch.randn(1, 3, 224, 224)
    if "prepared" in sys.argv[1]:
        model = prepare_for_inference(model)
    start, before = time.perf_counter(), sum(os.times()[:4])
    if "blocks" in sys.argv[1]:
        compile_blocks(model)
    else:
        model = torch.compile(model, fullgraph=True)
    model(image)
    print(time.perf_counter() - start, sum(os.times()[:4]) - before)
"""


def compile_times(name: str, rounds: int) -> None:
    """Print how long the whole network and its blocks take to compile, with an empty cache."""
    times: dict[str, list[list[float]]] = {"whole": [], "blocks": [], "prepared, whole": [], "prepared, blocks": []}
    for _ in range(rounds):
        for way, found in times.items():
            with tempfile.TemporaryDirectory() as cache:
                environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
                command = [sys.executable, "-c", _COMPILE, way, name]
                done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
                found.append([float(word) for word in done.stdout.splitlines()[-1].split()])
    print(f"\n{name}: compiling, relative to whole\n\n| | s | | s of processors | |\n|---|---|---|---|---|")
    rows = {way: [median(column) for column in zip(*found, strict=True)] for way, found in times.items()}
    for way, medians in rows.items():
        cells = [f"{x:.1f} | {x / reference:.2f}" for x, reference in zip(medians, rows["whole"], strict=True)]
        print(f"| {way} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["internimage_t", "convnext_tiny"])
    parser.add_argument("--batches", nargs="+", type=int, choices=CALLS, default=list(CALLS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, default=Path("deployed"))
    parser.add_argument("--runner", type=Path, default=Path("build"))
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--first", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        name, way, batch = arguments.work
        work(name, way, int(batch), arguments.folder)
    elif arguments.first:
        name, way, compiled = arguments.first
        first(name, way, arguments.folder, compiled)
    elif arguments.cold:
        cold(arguments.models[0], min(arguments.rounds, 5), arguments.folder, arguments.runner)
    elif arguments.compile:
        compile_times(arguments.models[0], min(arguments.rounds, 3))
    else:
        for batch in arguments.batches:
            compare(arguments.models, batch, arguments.rounds, arguments.folder, arguments.runner)


if __name__ == "__main__":
    main()
