"""RoIAlign and non-maximum suppression on the CPU: the kernels against their definitions and torchvision's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from interleaved import Job, Table, compare
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from internimage.ops import batched_nms, roi_align, use_backend

try:
    import torchvision
except ImportError:
    torchvision = None
MISSING = {} if torchvision else {"torchvision": "not installed (pip install torchvision)"}


@dataclass(frozen=True)
class Case:
    """RoIs on the finest level of a pyramid, stride 4, of an image of 800 x 1216."""

    rois: int
    bins: int
    layout: torch.memory_format = torch.contiguous_format
    sampling_ratio: int = 0


CASES = {
    "1000 RoIs, 7 x 7": Case(1000, 7),
    "1000 RoIs, 7 x 7, channels last": Case(1000, 7, torch.channels_last),
    "1000 RoIs, 7 x 7, 2 x 2 samples": Case(1000, 7, sampling_ratio=2),
    "100 RoIs, 14 x 14": Case(100, 14),
    "100 RoIs, 14 x 14, channels last": Case(100, 14, torch.channels_last),
}
SCALE = 0.25


def boxes(count: int, *, largest: float) -> Tensor:
    """Corners x1, y1, x2, y2 of random boxes of 16 pixels and more a side."""
    centres = torch.rand(count, 2) * torch.tensor([1216.0, 800.0])
    half = (16 + torch.rand(count, 2) * (largest - 16)) / 2
    return torch.cat((centres - half, centres + half), dim=1)


def roi_align_jobs(case: Case, *, backward: bool) -> dict[str, Job]:
    torch.manual_seed(0)
    input = torch.randn(1, 256, 200, 304).to(memory_format=case.layout).requires_grad_(backward)
    rois = torch.nn.functional.pad(boxes(case.rois, largest=112), (1, 0))  # larger ones lie on other levels
    grad_output = torch.randn(case.rois, 256, case.bins, case.bins)

    def job(function: Callable[..., Tensor], backend: Any = "native") -> Job:
        def run() -> None:
            with use_backend(backend), torch.set_grad_enabled(backward):
                output = function(
                    input, rois, case.bins, spatial_scale=SCALE, sampling_ratio=case.sampling_ratio, aligned=True
                )
                if backward:
                    torch.autograd.grad(output, input, grad_output)

        return run

    jobs = {"kernel": job(roi_align), "pure PyTorch": job(roi_align, "torch")}
    return jobs | ({"torchvision": job(torchvision.ops.roi_align)} if torchvision else {})


def nms_jobs(count: int) -> dict[str, Job]:
    """Proposals of five levels, as a detector's first stage has them."""
    torch.manual_seed(0)
    corners, scores = boxes(count, largest=300), torch.rand(count)
    levels = torch.randint(5, (count,))

    def job(backend: Any) -> Job:
        def run() -> None:
            with use_backend(backend):
                batched_nms(corners, scores, levels, 0.7)

        return run

    jobs: dict[str, Job] = {"kernel": job("native"), "pure PyTorch": job("torch")}
    if torchvision:
        jobs["torchvision"] = lambda: torchvision.ops.batched_nms(corners, scores, levels, 0.7)
    return jobs


@pytest.mark.parametrize("direction", ["forward", "forward and backward"])
@pytest.mark.parametrize("case", CASES)
def test_roi_align(benchmark: BenchmarkFixture, tables: list[Table], case: str, direction: str) -> None:
    jobs = roi_align_jobs(CASES[case], backward=direction != "forward")
    report(benchmark, tables, f"RoIAlign {direction}, 256 channels of 200 x 304, {case}", jobs)


@pytest.mark.parametrize("count", [1000, 4741])
def test_nms(benchmark: BenchmarkFixture, tables: list[Table], count: int) -> None:
    report(benchmark, tables, f"non-maximum suppression of {count} boxes on five levels", nms_jobs(count))


def report(benchmark: BenchmarkFixture, tables: list[Table], title: str, jobs: dict[str, Job]) -> None:
    table = compare(title, jobs, missing=MISSING)
    tables.append(table)
    benchmark.extra_info.update(medians=table.medians, ratios=table.ratios)
    benchmark.pedantic(jobs["kernel"], rounds=5, warmup_rounds=1)
