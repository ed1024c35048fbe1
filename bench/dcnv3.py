"""DCNv3 on the CPU: the kernel against pure PyTorch, eager and compiled, and against torchvision's operator."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from interleaved import Table, compare
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from internimage.ops import dcnv3, use_backend

CASES = {
    "stage 1 of T at 224, batch 8": {"n": 8, "size": 56, "groups": 4},
    "stage 3 of T at 224, batch 8": {"n": 8, "size": 14, "groups": 16},
}
GROUP_CHANNELS, TAPS = 16, 9

Job = Callable[[], object]


def tensors(n: int, size: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    shape = (n, size, size)
    mask = torch.rand(*shape, groups, TAPS).softmax(-1).flatten(-2)
    return torch.randn(*shape, groups * GROUP_CHANNELS), torch.randn(*shape, groups * TAPS * 2), mask


def torchvision_operator(groups: int, offset: Tensor, mask: Tensor) -> Callable[[Tensor], Tensor] | None:
    """The same result by `deform_conv2d`, whose arguments are put in its order beforehand, outside the measurement."""
    try:
        from torchvision import ops
    except ImportError:
        return None
    n, rows, columns, _ = offset.shape
    its_offset = offset.view(n, rows, columns, groups, 3, 3, 2).transpose(4, 5).flip(-1)
    its_offset = its_offset.reshape(n, rows, columns, -1).permute(0, 3, 1, 2).contiguous()
    its_mask = mask.view(n, rows, columns, groups, 3, 3).transpose(4, 5)
    its_mask = its_mask.reshape(n, rows, columns, -1).permute(0, 3, 1, 2).contiguous()
    weight = torch.ones(groups * GROUP_CHANNELS, 1, 3, 3)

    def apply(image: Tensor) -> Tensor:
        result: Tensor = ops.deform_conv2d(image, its_offset, weight, padding=1, mask=its_mask)
        return result

    return apply


def variants(case: dict[str, int], *, backward: bool) -> tuple[dict[str, Job], dict[str, str]]:
    input, offset, mask = (tensor.requires_grad_(backward) for tensor in tensors(**case))
    groups = case["groups"]

    def job(function: Callable[..., Tensor], *leaves: Tensor, backend: Any = "native") -> Job:
        grad_output = torch.ones_like(leaves[0])

        def run() -> None:
            with use_backend(backend), torch.set_grad_enabled(backward):
                output = function(*leaves)
                if backward:
                    torch.autograd.grad(output, leaves, grad_output)

        return run

    def operator(*leaves: Tensor) -> Tensor:
        return dcnv3(*leaves, groups=groups)

    compiled = torch.compile(operator, fullgraph=True, dynamic=False)
    found = {
        "kernel": job(operator, input, offset, mask),
        "pure PyTorch, eager": job(operator, input, offset, mask, backend="torch"),
        "pure PyTorch, compiled": job(compiled, input, offset, mask, backend="torch"),
    }
    theirs = torchvision_operator(groups, offset.detach(), mask.detach())
    if theirs is None:
        return found, {"torchvision": "pip install torchvision"}
    images = input.detach().permute(0, 3, 1, 2).contiguous().requires_grad_(backward)
    return {**found, "torchvision, input's gradient": job(theirs, images)}, {}


@pytest.mark.parametrize("direction", ["forward", "forward and backward"])
@pytest.mark.parametrize("case", CASES)
def test_dcnv3(benchmark: BenchmarkFixture, tables: list[Table], case: str, direction: str) -> None:
    jobs, missing = variants(CASES[case], backward=direction != "forward")
    table = compare(f"dcnv3 {direction}, {case}", jobs, missing=missing)
    tables.append(table)
    benchmark.extra_info.update(medians=table.medians, ratios=table.ratios, missing=missing)
    benchmark.pedantic(jobs["kernel"], rounds=20, warmup_rounds=2)
