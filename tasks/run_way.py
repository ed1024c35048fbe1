"""A process that measures one way of running a model: `python -m internimage.tasks.run_way JOB`, a `Job` as JSON."""

import ctypes
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import internimage
from internimage import create_model, deploy, prepare_for_inference
from internimage.tasks.devices import clock_s

WAYS = ("eager", "compiled", "packaged", "prepared", "prepared+compiled", "prepared+packaged")
TRAINABLE = ("eager", "compiled")


@dataclass(frozen=True)
class Job:
    """What one process measures: forward passes, or training steps, of a model run one way."""

    model: str
    way: str
    train: bool
    shape: Sequence[int]  # of the images, [N, 3, H, W]
    device: str
    threads: int
    repeats: int


@dataclass(frozen=True)
class Measurement:
    """What one way takes.

    Attributes:
        setup_s: from the model to the end of its first pass: preparing, compiling, packaging, loading. Less where the
            compiler has its work of an earlier run in its cache.
        times_s: of the passes after it.
        peak_growth_mib: how far memory grows in a pass over what is held between passes: resident memory on a CPU,
            tensors on CUDA; None where the system doesn't tell.
    """

    setup_s: float
    times_s: list[float]
    peak_growth_mib: float | None


def main() -> None:
    """Do the job that the command line holds, and print a `Measurement` or {"error": text} as JSON."""
    job = Job(**json.loads(sys.argv[1]))
    result: dict[str, Any]
    try:
        result = asdict(measure(job))
    except Exception as error:  # a compiler can raise anything, and it is news of this way alone
        traceback.print_exc()
        result = {"error": next(iter(str(error).splitlines()), "") or type(error).__name__}
    print(json.dumps(result))


def measure(job: Job) -> Measurement:
    """Make the model, set its way up, and time it in this process."""
    torch.set_num_threads(job.threads)
    device = torch.device(job.device)
    model = create_model(job.model).eval().to(device)
    images = torch.randn(*job.shape, device=device)
    with TemporaryDirectory() as folder:
        start = clock_s(device)
        run_once = _training_step(model, job.way, images) if job.train else _forward(model, job.way, images, folder)
        run_once()
        setup_s = clock_s(device) - start
        times_s = time_passes(run_once, device, job.repeats)
        return Measurement(setup_s, times_s, peak_growth_mib(run_once, device))


def _forward(model: internimage.InternImage, way: str, images: Tensor, folder: str) -> Callable[[], object]:
    if way.startswith("prepared"):
        model = prepare_for_inference(model)
    call: Callable[[Tensor], object] = model
    if way.endswith("compiled"):
        call = torch.compile(model, fullgraph=True)
    elif way.endswith("packaged"):
        program = deploy.export(model, images, batch=None)
        call = deploy.load_package(deploy.package(program, Path(folder) / "model.pt2"))

    @torch.no_grad()
    def run_once() -> object:
        return call(images)

    return run_once


def _training_step(model: nn.Module, way: str, images: Tensor) -> Callable[[], object]:
    model.train()
    call: Callable[[Tensor], Tensor] = torch.compile(model, fullgraph=True) if way == "compiled" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)  # the same work, and no weight runs away
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)

    def run_once() -> None:
        torch.autograd.backward(F.cross_entropy(call(images), labels))
        optimizer.step()
        optimizer.zero_grad()

    return run_once


def time_passes(run_once: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Seconds of passes after one to warm up."""
    run_once()
    times = []
    for _ in range(repeats):
        start = clock_s(device)
        run_once()
        times.append(clock_s(device) - start)
    return times


def peak_growth_mib(run_once: Callable[[], object], device: torch.device) -> float | None:
    """See `Measurement`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run_once()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    if device.type != "cpu" or sys.platform != "linux":
        return None
    ctypes.CDLL(None).malloc_trim(0)  # what earlier passes have freed goes back to the system, so it counts again
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak starts anew
    except OSError:  # a container can forbid it
        return None
    before_mib = _resident_mib("VmRSS")
    run_once()
    return _resident_mib("VmHWM") - before_mib


def _resident_mib(field: str) -> float:
    """VmRSS (now) or VmHWM (the peak) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


if __name__ == "__main__":
    main()
