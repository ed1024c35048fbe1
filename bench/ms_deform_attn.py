"""Multi-scale deformable attention on the CPU: the kernel against pure PyTorch, as definition and by `grid_sample`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from interleaved import Table, compare
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from internimage.ops import multi_scale_deformable_attention, use_backend

Job = Callable[[], object]
Shapes = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Case:
    """Sizes of one call for one image, with 32 channels a head and 4 points; no queries: each pixel is one."""

    shapes: Shapes
    heads: int
    queries: int = 0


DINO = ((100, 152), (50, 76), (25, 38), (13, 19))  # an image of 800 x 1216, strides 8 to 64
CASES = {
    "DINO's encoder": Case(DINO, heads=8),
    "DINO's decoder": Case(DINO, heads=8, queries=900),
    "Mask2Former's pixel decoder at 512": Case(((16, 16), (32, 32), (64, 64)), heads=32),
}
CHANNELS, POINTS = 32, 4


def tensors(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Points some pixels around the query's own place, which is random where queries are no pixels."""
    torch.manual_seed(0)
    pixels = sum(height * width for height, width in case.shapes)
    levels = len(case.shapes)
    if case.queries:
        places = torch.rand(case.queries, 2)
    else:
        grids = [
            torch.cartesian_prod((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width).flip(-1)
            for height, width in case.shapes
        ]
        places = torch.cat(grids)
    sizes = torch.tensor(case.shapes).flip(-1).unsqueeze(1)  # [levels, 1, 2]: x before y
    offsets = 2 * torch.randn(len(places), case.heads, levels, POINTS, 2) / sizes
    weights = torch.rand(1, len(places), case.heads, levels * POINTS).softmax(-1)
    return (
        torch.randn(1, pixels, case.heads, CHANNELS),
        (places.view(-1, 1, 1, 1, 2) + offsets).unsqueeze(0),
        weights.unflatten(-1, (levels, POINTS)),
    )


def by_grid_sample(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The same result by PyTorch's own sampler: a call for each level, heads as images of a batch."""
    n, queries, heads, _, points, _ = locations.shape
    maps = value.split([height * width for height, width in shapes], dim=1)
    samples = [
        F.grid_sample(
            maps[level].permute(0, 2, 3, 1).reshape(n * heads, CHANNELS, height, width),
            (2 * locations[:, :, :, level] - 1).transpose(1, 2).reshape(n * heads, queries, points, 2),
            align_corners=False,
        )
        for level, (height, width) in enumerate(shapes)
    ]
    shares = weights.transpose(1, 2).reshape(n * heads, 1, queries, -1)
    output = (torch.cat(samples, dim=-1) * shares).sum(-1)
    return output.view(n, heads * CHANNELS, queries).transpose(1, 2)


def variants(case: Case, *, backward: bool) -> dict[str, Job]:
    value, locations, weights = (tensor.requires_grad_(backward) for tensor in tensors(case))

    def job(function: Callable[..., Tensor], backend: Any = "native") -> Job:
        grad_output = torch.ones(1, locations.shape[1], case.heads * CHANNELS)

        def run() -> None:
            with use_backend(backend), torch.set_grad_enabled(backward):
                output = function(value, case.shapes, locations, weights)
                if backward:
                    torch.autograd.grad(output, (value, locations, weights), grad_output)

        return run

    return {
        "kernel": job(multi_scale_deformable_attention),
        "pure PyTorch": job(multi_scale_deformable_attention, backend="torch"),
        "pure PyTorch, by grid_sample": job(by_grid_sample),
    }


@pytest.mark.parametrize("direction", ["forward", "forward and backward"])
@pytest.mark.parametrize("case", CASES)
def test_ms_deform_attn(benchmark: BenchmarkFixture, tables: list[Table], case: str, direction: str) -> None:
    jobs = variants(CASES[case], backward=direction != "forward")
    table = compare(f"multi-scale deformable attention {direction}, {case}", jobs)
    tables.append(table)
    benchmark.extra_info.update(medians=table.medians, ratios=table.ratios)
    benchmark.pedantic(jobs["kernel"], rounds=5, warmup_rounds=1)
