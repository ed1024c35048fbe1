"""The CUDA kernels on this machine's device: are they right, and how fast? Ten minutes; a table at the end.

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
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cuda_cases
import torch
from cuda_calls import Call, Maker, attention_call, dcnv3_call, nms_call, roi_align_call
from torch import Tensor

from internimage.ops import build, toolchain, use_backend

# What a result may differ by from the definition, computed in float64 on the same numbers: relative, absolute. Sums are
# float32 for the halves, so beside float32's error theirs is one rounding of the result.
TOLERANCES = {
    torch.float32: (1e-4, 1e-4),
    torch.float16: (2**-11 + 1e-4, 1e-4),
    torch.bfloat16: (2**-8 + 1e-4, 1e-4),
    torch.float64: (1e-10, 1e-10),
}
OPERATORS: dict[str, tuple[Maker, dict[str, dict[str, Any]]]] = {
    "DCNv3": (dcnv3_call, cuda_cases.DCNV3),
    "attention": (attention_call, cuda_cases.ATTENTION),
    "RoIAlign": (roi_align_call, cuda_cases.ROI_ALIGN),
    "NMS": (nms_call, cuda_cases.NMS),
}
_PYRAMID = ((100, 152), (50, 76), (25, 38), (13, 19))  # an image of 800 x 1216, strides 8 to 64
_DETECTOR = {"n": 1, "channels": 256, "size": (200, 304), "largest": 0.1, "sampling_ratio": 2}
SHAPES: dict[str, tuple[Maker, dict[str, Any]]] = {
    name: (dcnv3_call, {"n": n, "size": (height, width), "groups": groups, "group_channels": 16, "softmax": True})
    for name, (n, height, width, groups) in {
        "DCNv3, T at 224, stage 1": (64, 56, 56, 4),
        "DCNv3, T at 224, stage 3": (64, 14, 14, 16),
        "DCNv3, T at 800 x 1216, stage 1": (2, 200, 304, 4),
    }.items()
} | {
    "attention, DINO's encoder": (
        attention_call,
        {"shapes": _PYRAMID, "n": 1, "queries": sum(h * w for h, w in _PYRAMID), "heads": 8, "channels": 32},
    ),
    "RoIAlign, 1000 RoIs, 7 x 7": (roi_align_call, _DETECTOR | {"rois": 1000, "output_size": (7, 7)}),
    "RoIAlign, 100 RoIs, 14 x 14": (roi_align_call, _DETECTOR | {"rois": 100, "output_size": (14, 14)}),
    "NMS, 1000 boxes": (nms_call, {"count": 1000}),
    "NMS, 4741 boxes": (nms_call, {"count": 4741}),
}
Job = Callable[[], object]


def results(call: Call, backend: Any, dtype: torch.dtype | None = None) -> list[Tensor]:
    """The output and the gradients of the learned tensors."""
    leaves = [tensor.detach().to(dtype or tensor.dtype).requires_grad_() for tensor in call.learned.values()]
    fixed = [tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor for tensor in call.fixed]
    with use_backend(backend):
        output = call.run(*leaves, *fixed)
        if call.grad_output is None:
            return [output]
        return [output.detach(), *torch.autograd.grad(output, leaves, call.grad_output.to(output.dtype))]


def faults(call: Call, dtype: torch.dtype, backend: Any = "native") -> Iterator[str]:
    """What is wrong with the kernels' results for tensors of this dtype, if anything."""
    rtol, atol = TOLERANCES[dtype]
    exact = results(call, "torch", call.exact)
    atomic = next(iter(call.learned), None)
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic)
        found, again = results(call, backend), results(call, backend)
        torch.use_deterministic_algorithms(False)
        for name, one, other, want in zip(("output", *call.learned), found, again, exact, strict=True):
            error = (one.double() - want.double()).abs()
            if not bool((error <= atol + rtol * want.double().abs()).all()):
                yield f"{name}, deterministic={deterministic}: differs by {error.max().item():.2g}"
            if (deterministic or name != atomic) and not torch.equal(one, other):
                yield f"{name}, deterministic={deterministic}: differs from run to run"


def check_all(device: torch.device) -> int:
    """Prints what is wrong; how many calls were."""
    wrong = calls = 0
    for operator, (make, cases) in OPERATORS.items():
        for name, case in cases.items():
            for dtype in TOLERANCES:
                found = list(faults(make(device, dtype, **case), dtype))
                calls += 1
                wrong += bool(found)
                for fault in found:
                    print(f"WRONG  {operator}, {name}, {dtype}: {fault}")
    print(f"correctness: {calls - wrong} of {calls} calls right")
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
        command = [program, "--tool", tool, "--error-exitcode", "9", "--kernel-regex", "kns=internimage"]
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


def floor_bytes(call: Call, backward: bool) -> int:
    """Each tensor moved once. Backward: what forward moves, then inputs and grad_output read, gradients written."""

    def size(tensors: Iterable[Tensor]) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    learned, fixed = size(call.learned.values()), size(call.fixed)
    output = 0 if call.grad_output is None else size([call.grad_output])
    return learned + fixed + output + (2 * learned + fixed + output if backward else 0)


def variants(call: Call, backward: bool) -> dict[str, Job]:
    """The kernel, the definition, and, where it can be compiled, the definition as Inductor fuses it."""
    leaves = [tensor.detach().requires_grad_(backward) for tensor in call.learned.values()]

    def job(function: Callable[..., Tensor], backend: Any) -> Job:
        def run() -> None:
            with use_backend(backend), torch.set_grad_enabled(backward):
                output = function(*leaves, *call.fixed)
                if backward:
                    torch.autograd.grad(output, leaves, call.grad_output)

        return run

    jobs = {"kernel": job(call.run, "native"), "eager": job(call.define or call.run, "torch")}
    if call.define is not None:
        jobs["compiled"] = job(torch.compile(call.define, fullgraph=True, dynamic=False), "torch")
    return jobs


def measure(device: torch.device, shapes: dict[str, tuple[Maker, dict[str, Any]]], copy: float) -> list[str]:
    """The table, in Markdown: a line for each shape, dtype and direction."""
    lines = [
        "| shape | dtype | direction | kernel, ms | GB/s | of a copy | pure PyTorch, eager | compiled |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, (make, case) in shapes.items():
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            call = make(device, dtype, **case)
            for backward in (False, True) if call.learned else (False,):
                torch.compiler.reset()
                times = {key: seconds(job, device) for key, job in variants(call, backward).items()}
                rate = floor_bytes(call, backward) / times["kernel"]
                direction = "forward and backward" if backward else "forward"
                cells = [name, str(dtype).removeprefix("torch."), direction, f"{1e3 * times['kernel']:.3f}"]
                cells += [f"{rate / 1e9:.0f}", f"{rate / copy:.0%}"] if call.learned else ["", ""]
                cells += [
                    f"{times[key] / times['kernel']:.1f} x" if key in times else "" for key in ("eager", "compiled")
                ]
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
