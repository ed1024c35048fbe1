"""The CUDA kernels on this machine's device: are they right, and how fast? Five minutes; a table at the end.

python bench/cuda.py                        everything
python bench/cuda.py --only correctness     every case and dtype against the definition in float64
python bench/cuda.py --only sanitizer       the same cases once under NVIDIA's compute-sanitizer
python bench/cuda.py --only speed           times, bandwidth, pure PyTorch eager and compiled
"""

if __name__ == "cuda":  # this folder is on a path, and PyTorch looks for NVIDIA's package
    raise ImportError("bench/cuda.py is not NVIDIA's package cuda")

import argparse
import contextlib
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from cuda_cases import CASES
from torch import Tensor

from internimage.ops import build, dcnv3, reference, toolchain, use_backend
from internimage.ops.geometry import Geometry

# What a result may differ by from the definition, computed in float64 on the same numbers: relative, absolute. Sums are
# float32 for the halves, so beside float32's error theirs is one rounding of the result.
TOLERANCES = {
    torch.float32: (1e-4, 1e-4),
    torch.float16: (2**-11 + 1e-4, 1e-4),
    torch.bfloat16: (2**-8 + 1e-4, 1e-4),
    torch.float64: (1e-10, 1e-10),
}
# Stages of T at 224 and of a detector's T at 800 x 1216: batch, height, width, groups. 16 channels a group.
SHAPES = {
    "T at 224, stage 1": (64, 56, 56, 4),
    "T at 224, stage 3": (64, 14, 14, 16),
    "T at 800 x 1216, stage 1": (2, 200, 304, 4),
}
GROUP_CHANNELS = 16
Job = Callable[[], object]


@dataclass(frozen=True)
class Inputs:
    """Tensors of one call, a gradient of its output, and its options."""

    tensors: tuple[Tensor, Tensor, Tensor]
    grad_output: Tensor
    geometry: Geometry


def make_inputs(
    device: torch.device,
    dtype: torch.dtype,
    *,
    n: int = 2,
    size: tuple[int, int] = (13, 11),
    groups: int = 2,
    group_channels: int = 4,
    spread: float = 1.0,
    **options: Any,
) -> Inputs:
    """Random tensors for one of `CASES`; offset and mask are parts of one wider tensor, as a network may give them."""
    settings: dict[str, Any] = {
        "kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": groups,
        "offset_scale": 1.0, "remove_center": False, "softmax": False,
    }  # fmt: skip
    geometry = Geometry(**{**settings, **options})
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(dtype)

    rows, columns = geometry.output_size(*size)
    points = groups * geometry.taps
    joined = draw(n, rows, columns, 3 * points + 1)
    offset, mask = joined[..., : 2 * points] * spread, joined[..., 2 * points : 3 * points]
    channels = groups * group_channels
    return Inputs((draw(n, *size, channels), offset, mask), draw(n, rows, columns, channels), geometry)


def results(inputs: Inputs, backend: Any, dtype: torch.dtype | None = None) -> list[Tensor]:
    """The output and the gradients of input, offset and mask."""
    leaves = [tensor.detach().to(dtype or tensor.dtype).requires_grad_() for tensor in inputs.tensors]
    with use_backend(backend):
        output = dcnv3(*leaves, **inputs.geometry._asdict())
        return [output.detach(), *torch.autograd.grad(output, leaves, inputs.grad_output.to(output.dtype))]


def faults(inputs: Inputs, backend: Any = "native") -> Iterator[str]:
    """What is wrong with the kernels' results, if anything."""
    dtype = inputs.tensors[0].dtype
    rtol, atol = TOLERANCES[dtype]
    exact = results(inputs, "torch", torch.float64)
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic)
        found, again = results(inputs, backend), results(inputs, backend)
        torch.use_deterministic_algorithms(False)
        for name, one, other, want in zip(("output", "input", "offset", "mask"), found, again, exact, strict=True):
            error = (one.double() - want).abs()
            if not bool((error <= atol + rtol * want.abs()).all()):
                yield f"{name}, deterministic={deterministic}: differs by {error.max().item():.2g}"
            if (deterministic or name != "input") and not torch.equal(one, other):
                yield f"{name}, deterministic={deterministic}: differs from run to run"


def check_all(device: torch.device) -> int:
    """Prints what is wrong; how many calls were."""
    wrong = 0
    for name, case in CASES.items():
        for dtype in TOLERANCES:
            found = list(faults(make_inputs(device, dtype, **case)))
            wrong += bool(found)
            for fault in found:
                print(f"WRONG  {name}, {dtype}: {fault}")
    print(f"correctness: {len(CASES) * len(TOLERANCES) - wrong} of {len(CASES) * len(TOLERANCES)} calls right")
    return wrong


def sanitize() -> int:
    """Runs the cases under compute-sanitizer, if it is there; how many of its tools found something."""
    program = shutil.which("compute-sanitizer")
    with contextlib.suppress(toolchain.BuildError):
        program = program or shutil.which("compute-sanitizer", path=str(toolchain.find_cuda_toolkit().root / "bin"))
    if program is None:
        print("sanitizer: not run: compute-sanitizer was not found (it comes with the CUDA toolkit)")
        return 0
    wrong = 0
    for tool in ("memcheck", "racecheck", "initcheck", "synccheck"):
        command = [program, "--tool", tool, "--error-exitcode", "9", "--kernel-regex", "kns=dcnv3"]
        command += [sys.executable, __file__, "--only", "correctness"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wrong += done.returncode != 0
        print(f"sanitizer, {tool}: {'clean' if done.returncode == 0 else done.stdout[-2000:] + done.stderr[-2000:]}")
    return wrong


def seconds(job: Job, device: torch.device, repeats: int = 20) -> float:
    """Median time of one call on the device, after warm-up."""
    for _ in range(3):
        job()
    measured = []
    for _ in range(repeats):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            job()
            end.record()
            end.synchronize()
            measured.append(begin.elapsed_time(end) / 1e3)
        else:
            start = time.perf_counter()
            job()
            measured.append(time.perf_counter() - start)
    return statistics.median(measured)


def copy_bandwidth(device: torch.device, elements: int = 2**28) -> float:
    """Bytes a second of a copy within the device, read and written."""
    source = torch.zeros(elements, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * elements / seconds(lambda: target.copy_(source), device)


def floor_bytes(inputs: Inputs, backward: bool) -> int:
    """Each tensor moved once. Backward: what forward moves, then inputs and grad_output read, gradients written."""
    tensors = sum(tensor.numel() * tensor.element_size() for tensor in inputs.tensors)
    output = inputs.grad_output.numel() * inputs.grad_output.element_size()
    return tensors + output + (2 * tensors + output if backward else 0)


def variants(inputs: Inputs, backward: bool) -> dict[str, Job]:
    """The kernel, the definition, and the definition as Inductor fuses it."""
    options = inputs.geometry._asdict()
    leaves = [tensor.detach().requires_grad_(backward) for tensor in inputs.tensors]

    def job(function: Callable[..., Tensor], backend: Any) -> Job:
        def run() -> None:
            with use_backend(backend), torch.set_grad_enabled(backward):
                output = function(*leaves)
                if backward:
                    torch.autograd.grad(output, leaves, inputs.grad_output)

        return run

    def pure(*tensors: Tensor) -> Tensor:
        return reference.dcnv3(*tensors, inputs.geometry)

    return {
        "kernel": job(lambda *tensors: dcnv3(*tensors, **options), "native"),
        "eager": job(pure, "torch"),
        "compiled": job(torch.compile(pure, fullgraph=True, dynamic=False), "torch"),
    }


def measure(device: torch.device, shapes: dict[str, tuple[int, int, int, int]], copy: float) -> list[str]:
    """The table, in Markdown: a line for each shape, dtype and direction."""
    lines = [
        "| shape | dtype | direction | kernel, ms | GB/s | of a copy | pure PyTorch, eager | compiled |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, (n, height, width, groups) in shapes.items():
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            sizes: dict[str, Any] = {"n": n, "size": (height, width), "groups": groups}
            inputs = make_inputs(device, dtype, group_channels=GROUP_CHANNELS, softmax=True, **sizes)
            for backward in (False, True):
                torch.compiler.reset()
                times = {key: seconds(job, device) for key, job in variants(inputs, backward).items()}
                rate = floor_bytes(inputs, backward) / times["kernel"]
                direction = "forward and backward" if backward else "forward"
                cells = [name, str(dtype).removeprefix("torch."), direction, f"{1e3 * times['kernel']:.3f}"]
                cells += [f"{rate / 1e9:.0f}", f"{rate / copy:.0%}"]
                cells += [f"{times[key] / times['kernel']:.1f} x" for key in ("eager", "compiled")]
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0 all is right, 1 something is wrong, 2 there is no device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("correctness", "sanitizer", "speed"))
    only = parser.parse_args(arguments).only
    if not torch.cuda.is_available():
        why = "is built without CUDA" if torch.version.cuda is None else "sees no NVIDIA driver and device"
        print(f"no CUDA device: PyTorch {torch.__version__} {why}; `internimage doctor` says more", file=sys.stderr)
        return 2
    wrong = 0
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        if only in (None, "correctness"):
            wrong += check_all(device)
    if only in (None, "sanitizer"):
        wrong += sanitize()
    if only in (None, "speed"):
        device = torch.device("cuda", 0)
        copy = copy_bandwidth(device)
        print(f"\n{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}, copy {copy / 1e9:.0f} GB/s\n")
        print("\n".join(measure(device, SHAPES, copy)))
        print(f"\nkernels: {build.loaded_libraries()['cuda']}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
