"""`internimage bench`: what a model takes here, run in different ways, and with `--profile` in which of its layers.

Every way runs in a process of its own, `internimage.tasks.run_way`.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import internimage
from internimage import create_model, prepare_for_inference
from internimage.ops.backend import get_backend
from internimage.ops.build import native_available
from internimage.tasks.devices import add_device_argument, choose_device
from internimage.tasks.layer_times import profile, table
from internimage.tasks.run_way import TRAINABLE, WAYS, Job, Measurement, time_passes

EXAMPLES = """examples:
  internimage bench                                    InternImage-T, one image of 224 x 224
  internimage bench --ways all --json ways.json        also compiled, packaged and prepared: takes minutes
  internimage bench --model internimage_b --batch 8 --threads 1 --ways eager prepared
  internimage bench --train --batch 8                  training steps
  internimage bench --prepared --profile               a table of its layers, the slowest first
  internimage bench --size 800 1216 --profile
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="internimage_t", help="a name of internimage.list_models() (internimage_t)")
    parser.add_argument("--batch", type=int, default=1, help="images at once (1)")
    parser.add_argument(
        "--size", type=int, nargs="+", default=[224], metavar="PIXELS", help="side of the images, or height and width"
    )
    parser.add_argument("--threads", type=int, help="threads of the CPU (as many as PyTorch takes by itself)")
    parser.add_argument("--ways", nargs="+", metavar="WAY", help=f"of running it: {', '.join(WAYS)}, or all (eager)")
    parser.add_argument("--train", action="store_true", help="measure training steps: forward, backward, AdamW")
    parser.add_argument("--repeats", type=int, default=10, help="passes, of which the median counts (10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--profile", action="store_true", help="show how long each kind of layer takes instead")
    parser.add_argument("--prepared", action="store_true", help="the same as --ways prepared, also for --profile")
    add_device_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print what each way takes, or the table of layers; 1 where a way could not be measured."""
    for name in ("batch", "threads", "repeats"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    if len(arguments.size) > 2 or min(arguments.size) < 1:
        raise ValueError(f"--size must be one or two numbers of pixels, got {arguments.size}")
    if arguments.prepared and arguments.ways:
        raise ValueError("--prepared is short for --ways prepared; give one of the two")
    if arguments.profile and (arguments.ways or arguments.train or arguments.json):
        raise ValueError("--profile shows the layers of one model; it doesn't go with --ways, --train and --json")
    device = choose_device(arguments.device)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    shape = (arguments.batch, 3, arguments.size[0], arguments.size[-1])
    kind = " prepared" if arguments.profile and arguments.prepared else ""
    about = f"images {' x '.join(map(str, shape))}, {device.type}, {torch.get_num_threads()} threads"
    print(f"{arguments.model}{kind}, {about}")
    if arguments.profile:
        _print_layers(arguments, shape, device)
        return 0
    return _compare_ways(arguments, shape, device)


def _print_layers(arguments: argparse.Namespace, shape: Sequence[int], device: torch.device) -> None:
    model = create_model(arguments.model).eval().to(device)
    if arguments.prepared:
        model = prepare_for_inference(model)
    images = torch.randn(shape, device=device)
    with torch.inference_mode():
        seconds = statistics.median(time_passes(lambda: model(images), device, arguments.repeats))
        print(f"{1e3 * seconds:.1f} ms a batch, {len(images) / seconds:.1f} images a second")
        print("\n".join(table(profile(model, images, arguments.repeats))))


def _compare_ways(arguments: argparse.Namespace, shape: Sequence[int], device: torch.device) -> int:
    """Measure way after way; what is measured is on screen and in the JSON file at once, should a later one hang."""
    parameters, flops = count_operations(arguments.model, *shape[2:])
    backend = "native" if native_available(device.type, get_backend()) else "PyTorch"
    found: dict[str, dict[str, Any]] = {}
    report = {
        "model": arguments.model,
        "parameters": parameters,
        "gflop_per_image": flops / 1e9,
        "gmac_per_image": flops / 2e9,
        "pass": "training step" if arguments.train else "forward",
        "images": list(shape),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "operators": backend,
        "versions": {"internimage": internimage.__version__, "torch": torch.__version__},
        "ways": found,
    }
    _write_json(arguments.json, report)  # before the long wait, should it be impossible
    counts = f"{parameters / 1e6:.2f} M parameters, {flops / 1e9:.2f} GFLOP ({flops / 2e9:.2f} GMAC) an image"
    print(f"{counts}, {backend} operators\n")
    columns = ("median ms", "p90 ms", "images/s", "set-up s", "memory MiB")
    print(f"{report['pass']:<20}" + "".join(f"{column:>12}" for column in columns), flush=True)
    for way in _chosen_ways(arguments, device):
        job = Job(
            arguments.model,
            way,
            arguments.train,
            shape,
            str(device),
            torch.get_num_threads(),
            arguments.repeats,
        )
        measured = _why_not(job) or _measure_in_process(job, debug=arguments.debug)
        found[way] = _figures(measured, shape[0])
        _write_json(arguments.json, report)
        print(f"{way:<20}{_as_text(found[way])}", flush=True)
    return 1 if any("error" in figures for figures in found.values()) else 0


def count_operations(name: str, height: int, width: int) -> tuple[int, int]:
    """Parameters of a model, and operations of its forward pass on one image; neither weights nor maps are computed.

    A multiplication and an addition count as two operations, where papers count the pair, a MAC, as one. Without native
    kernels the sampling of DCNv3 (2 % of T) is not counted.
    """
    with torch.device("meta"):
        model = create_model(name).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        model.to_empty(device="cpu")
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, height, width))
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops()


def _chosen_ways(arguments: argparse.Namespace, device: torch.device) -> list[str]:
    if arguments.ways is None:
        return ["prepared" if arguments.prepared else "eager"]
    every = TRAINABLE if arguments.train else [way for way in WAYS if device.type == "cpu" or "prepared" not in way]
    return list(dict.fromkeys(way for named in arguments.ways for way in (every if named == "all" else [named])))


def _why_not(job: Job) -> str | None:
    """Why a job need not be tried."""
    if job.way not in WAYS:
        return f"there is no such way; there are {', '.join(WAYS)} and all"
    if job.train and job.way not in TRAINABLE:
        return f"a {job.way} model can't be trained; {' and '.join(TRAINABLE)} ones can"
    if "prepared" in job.way and torch.device(job.device).type != "cpu":
        return f"prepare_for_inference is for a CPU, not for {job.device}"
    return None


def _measure_in_process(job: Job, *, debug: bool) -> Measurement | str:
    """Have a new process do a job, and say how long it has been at it; the text is why it gave no result."""
    # -P: in a checkout, its folder internimage/ would stand before the installed package.
    command = [sys.executable, "-P", "-m", "internimage.tasks.run_way", json.dumps(asdict(job))]
    with (
        tqdm(
            desc=f"{job.way}: setting up and measuring", bar_format="{desc}, {elapsed}", leave=False, disable=None
        ) as bar,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
    ):
        try:
            while True:
                try:
                    output, errors = process.communicate(timeout=0.5)
                    break
                except subprocess.TimeoutExpired:
                    bar.refresh()
        finally:
            process.kill()  # where this was interrupted
    if debug:
        sys.stderr.write(errors)
    if process.returncode:
        reason = (errors.strip().splitlines() or ["killed, perhaps for lack of memory"])[-1]
        return f"its process died with exit status {process.returncode}: {reason}"
    result = json.loads(output.splitlines()[-1])
    return result["error"] if "error" in result else Measurement(**result)


def _figures(measured: Measurement | str, batch: int) -> dict[str, Any]:
    """What the JSON file has of a way."""
    if isinstance(measured, str):
        return {"error": measured}
    times_ms = [1e3 * seconds for seconds in measured.times_s]
    return {
        "median_ms": statistics.median(times_ms),
        "p90_ms": float(np.percentile(times_ms, 90)),
        "images_per_second": batch / statistics.median(measured.times_s),
        "setup_s": measured.setup_s,
        "peak_growth_mib": measured.peak_growth_mib,
        "times_ms": times_ms,
    }


def _as_text(figures: dict[str, Any]) -> str:
    if "error" in figures:
        return f"not run: {figures['error']}"
    memory = "unknown" if figures["peak_growth_mib"] is None else f"{figures['peak_growth_mib']:.0f}"
    numbers = (figures[name] for name in ("median_ms", "p90_ms", "images_per_second", "setup_s"))
    return "".join(f"{number:12.1f}" for number in numbers) + f"{memory:>12}"


def _write_json(path: Path | None, report: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(report, indent=2) + "\n")
