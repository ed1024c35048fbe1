"""The operator as torch's compiler, exporter and FLOP counter see it."""

import pytest
import torch
from operator_checks import assert_no_opaque_operator
from strategies import Case, make_case
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from internimage.ops import dcnv3, use_backend
from internimage.ops.backend import Backend
from internimage.ops.geometry import Geometry
from internimage.ops.schema import SCHEMA_VERSION

BACKENDS: tuple[Backend, ...] = ("native", "torch")
OPTIONS = [
    {},
    {"softmax": True, "offset_scale": 2.0},
    {"kernel_size": (3, 5), "stride": (2, 1), "padding": (1, 2), "remove_center": True, "groups": 3},
]


def function(geometry: Geometry):
    def apply(input: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return dcnv3(input, offset, mask, **geometry._asdict())

    return apply


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("operator", ["dcnv3", "dcnv3_backward"])
def test_opcheck(operator: str, dtype: torch.dtype, options: dict) -> None:
    case = make_case(0, dtype=dtype, **options)
    with use_backend("native"):
        output = dcnv3(*case.tensors, **case.options)  # loads the kernel
    if operator == "dcnv3":
        arguments = (*(tensor.requires_grad_() for tensor in case.tensors), *case.geometry, SCHEMA_VERSION)
    else:
        arguments = (torch.ones_like(output), *case.tensors, *case.geometry, False, SCHEMA_VERSION)
    torch.library.opcheck(getattr(torch.ops.internimage, operator).default, arguments)


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_to_one_graph_for_all_sizes_forward_and_backward(backend: Backend) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    geometry = make_case(0, softmax=True, groups=2, group_channels=8).geometry
    compiled = torch.compile(function(geometry), fullgraph=True, dynamic=True)
    for seed, (n, size) in enumerate([(2, (6, 7)), (3, (9, 5)), (4, (5, 12))]):
        case = make_case(seed, n=n, size=size, softmax=True, groups=2, group_channels=8)
        leaves = [tensor.requires_grad_() for tensor in case.tensors]
        with use_backend(backend):
            got, expected = compiled(*leaves), function(geometry)(*leaves)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        grad_output = torch.randn_like(got)
        for one, other in zip(
            torch.autograd.grad(got, leaves, grad_output),
            torch.autograd.grad(expected, leaves, grad_output),
            strict=True,
        ):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_dynamic_sizes(strict: bool) -> None:
    class Layer(torch.nn.Module):
        def forward(self, input: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
            return dcnv3(input, offset, mask, groups=2)

    batch, height, width = (torch.export.Dim(name, min=2, max=64) for name in ("batch", "height", "width"))
    sizes = {0: batch, 1: height, 2: width}
    program = torch.export.export(Layer(), make_case(0).tensors, dynamic_shapes=(sizes, sizes, sizes), strict=strict)
    assert [node.target for node in program.graph.nodes].count(torch.ops.internimage.dcnv3.default) == 1
    other = make_case(1, n=5, size=(11, 8))
    torch.testing.assert_close(program.module()(*other.tensors), dcnv3(*other.tensors, groups=2))


def test_the_torch_backend_leaves_no_opaque_operator_to_the_compiler() -> None:
    torch._dynamo.reset()
    case = make_case(0)
    with use_backend("torch"):
        assert_no_opaque_operator(function(case.geometry), *case.tensors)


def flops(case: Case) -> int:
    with use_backend("native"), FlopCounterMode(display=False) as counter:
        dcnv3(*case.tensors, **case.options)
    return counter.get_total_flops()


def test_flops_are_counted_as_the_paper_counts() -> None:
    """5 multiply-adds per tap and channel: 5 x n x k x c, two operations each."""
    case = make_case(0, n=3, size=(6, 7), groups=2, group_channels=4)
    assert flops(case) == 2 * 5 * (3 * 6 * 7) * 9 * 8
    assert flops(make_case(0, groups=1, group_channels=4, remove_center=True)) == 2 * 5 * (2 * 6 * 7) * 8 * 4
    leaves = [tensor.requires_grad_() for tensor in case.tensors]
    with use_backend("native"), FlopCounterMode(display=False) as counter:
        dcnv3(*leaves, **case.options).sum().backward()
    assert counter.get_total_flops() == 3 * flops(case)
