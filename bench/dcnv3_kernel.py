"""The CPU kernel alone, in cycles for each output pixel and group, beside a probe that does only its loads and sums."""

import ctypes
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.utils.cpp_extension
from interleaved import compare
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from internimage.ops import dcnv3, toolchain, use_backend
from internimage.ops.build import SOURCES, native_available
from internimage.ops.schema import SCHEMA_VERSION

TAPS = 9


@dataclass(frozen=True)
class Case:
    """Sizes of one call with 3x3 kernels and stride 1."""

    height: int
    width: int
    groups: int
    group_channels: int = 16
    dtype: torch.dtype = torch.float32
    softmax: bool = False
    images: int = 1
    threads: int = 1

    @property
    def units(self) -> int:
        return self.images * self.height * self.width * self.groups


STAGES = {
    "stage 1 of T at 224": Case(56, 56, 4),
    "stage 2": Case(28, 28, 8),
    "stage 3": Case(14, 14, 16),
    "stage 4": Case(7, 7, 32),
    "stage 1 at 800x1216": Case(200, 304, 4),
}
CASES = {
    **STAGES,
    "stage 1, softmax inside": Case(56, 56, 4, softmax=True),
    **{
        f"{name}, {str(dtype).removeprefix('torch.')}": Case(case.height, case.width, case.groups, dtype=dtype)
        for name, case in STAGES.items()
        for dtype in (torch.bfloat16, torch.float16)
    },
    **{f"28x28, {c} channels a group": Case(28, 28, 4, group_channels=c) for c in (7, 8, 13, 16, 31, 32, 64, 65)},
    **{f"stage 1 at {4 * size}": Case(size, size, 4) for size in (56, 128, 256, 512)},
    **{
        f"{name}, {images} image{'s'[: images - 1]}, {threads} thread{'s'[: threads - 1]}": Case(
            case.height, case.width, case.groups, images=images, threads=threads
        )
        for name, case in (("stage 1", STAGES["stage 1 of T at 224"]), ("800x1216", STAGES["stage 1 at 800x1216"]))
        for images in (1, 2)
        for threads in (1, 2)
    },
}


@cache
def probe() -> ctypes.CDLL:
    """The probe, built with the kernels' flags."""
    library = Path(torch.utils.cpp_extension.get_default_build_root(), "internimage-bench", "probe.so")
    library.parent.mkdir(parents=True, exist_ok=True)
    flags = ["-std=c++20", "-O3", "-Wno-psabi", "-shared", "-fPIC", *toolchain.cpu_flags(toolchain.instruction_set())]
    includes = [f"-I{path}" for path in (SOURCES, *torch.utils.cpp_extension.include_paths())]
    source = str(Path(__file__).with_name("probe.cpp"))
    compiler = shlex.split(toolchain.find_compiler().command)
    subprocess.run([*compiler, *flags, *includes, source, "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.clock_hz.restype = ctypes.c_double
    return loaded


@cache
def keep_freed_memory() -> None:
    """Has glibc hand freed memory out again, however large: fresh pages would cost more than the kernel."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_trim_threshold, m_mmap_max = -1, -4
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def jobs(case: Case) -> dict[str, Callable[[], object]]:
    """The operators themselves, without the public function and autograd, and the probe for as many units."""
    torch.manual_seed(0)
    shape = (case.images, case.height, case.width)

    def draw(channels: int) -> Tensor:
        return torch.randn(*shape, channels).to(case.dtype)

    input, grad_output = draw(case.groups * case.group_channels), draw(case.groups * case.group_channels)
    offset, mask = draw(case.groups * TAPS * 2), draw(case.groups * TAPS)
    with use_backend("native"):  # builds and loads the kernels, or says why not
        dcnv3(input, offset, mask, groups=case.groups)
    geometry = ([3, 3], [1, 1], [1, 1], [1, 1], case.groups, 1.0, False, case.softmax)
    forward, backward = torch.ops.internimage.dcnv3.default, torch.ops.internimage.dcnv3_backward.default
    units = ctypes.c_int64(case.units)
    return {
        "probe forward": lambda: probe().forward(units),
        "probe backward": lambda: probe().backward(units),
        "forward": lambda: forward(input, offset, mask, *geometry, SCHEMA_VERSION),
        "backward": lambda: backward(grad_output, input, offset, mask, *geometry, False, SCHEMA_VERSION),
    }


@dataclass
class CycleTable:
    """Least cycles for each output pixel and group, and their ratio to the probe's."""

    title: str
    rows: dict[str, dict[str, float]] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        yield self.title
        yield f"  {'':<36}{'forward':>9}{'/ probe':>9}{'backward':>10}{'/ probe':>9}"
        for name, row in self.rows.items():
            forward, backward = (f"{row[key]:{width}.0f}" for key, width in (("forward", 9), ("backward", 10)))
            ratios = [f"{row[key] / row[f'probe {key}']:9.2f}" for key in ("forward", "backward")]
            yield f"  {name:<36}{forward}{ratios[0]}{backward}{ratios[1]}"


@pytest.fixture(scope="module")
def cycles() -> CycleTable:
    level = toolchain.instruction_set()
    return CycleTable(f"dcnv3 kernel ({level}): least cycles for each output pixel and group, offsets N(0, 1)")


@pytest.mark.parametrize("name", CASES)
def test_cycles(benchmark: BenchmarkFixture, tables: list[object], cycles: CycleTable, name: str) -> None:
    if not native_available("cpu", "auto"):
        pytest.skip("needs the CPU kernels: `internimage doctor --build` says what is missing")
    if cycles not in tables:
        tables.append(cycles)
    case = CASES[name]
    torch.set_num_threads(case.threads)
    clock = max(probe().clock_hz() for _ in range(5))
    keep_freed_memory()
    with torch.inference_mode():  # below autograd, as the public function calls the operators
        table = compare(name, jobs(case), seconds=1.5)
    cycles.rows[name] = {job: min(seconds) * clock / case.units for job, seconds in table.seconds.items()}
    benchmark.extra_info.update(cycles=cycles.rows[name], medians=table.medians)
    benchmark.pedantic(jobs(case)["forward"], rounds=3, warmup_rounds=1)
