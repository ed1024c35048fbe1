"""Multi-scale deformable attention as torch's compiler, exporter and FLOP counter see it."""

import pytest
import torch
from attention_strategies import AttentionCase, Shapes, make_attention_case
from operator_checks import assert_no_opaque_operator
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from internimage.ops import multi_scale_deformable_attention, use_backend
from internimage.ops.backend import Backend
from internimage.ops.schema import SCHEMA_VERSION

BACKENDS: tuple[Backend, ...] = ("native", "torch")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("operator", ["ms_deform_attn", "ms_deform_attn_backward"])
def test_opcheck(operator: str, dtype: torch.dtype) -> None:
    case = make_attention_case(0, dtype=dtype)
    with use_backend("native"):
        output = multi_scale_deformable_attention(*case.arguments)  # loads the kernel
    if operator == "ms_deform_attn":
        arguments = (*(tensor.requires_grad_() for tensor in case.tensors), case.flat_shapes, SCHEMA_VERSION)
    else:
        arguments = (torch.ones_like(output), *case.tensors, case.flat_shapes, False, SCHEMA_VERSION)
    torch.library.opcheck(getattr(torch.ops.internimage, operator).default, arguments)


class Attention(torch.nn.Module):
    """Attention to maps, as a detector calls it: sizes come from the maps."""

    def forward(self, maps: list[Tensor], locations: Tensor, weights: Tensor) -> Tensor:
        shapes = [(map.shape[2], map.shape[3]) for map in maps]
        value = torch.cat([map.flatten(2).transpose(1, 2) for map in maps], dim=1)
        return multi_scale_deformable_attention(value.unflatten(2, (2, -1)), shapes, locations, weights)


def inputs(seed: int, n: int, shapes: Shapes, queries: int) -> tuple[list[Tensor], Tensor, Tensor]:
    case = make_attention_case(seed, n=n, shapes=shapes, queries=queries)
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 8, *shape, generator=generator) for shape in shapes], case.locations, case.weights


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_to_one_graph_for_all_sizes_forward_and_backward(backend: Backend) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(Attention(), fullgraph=True, dynamic=True)
    # Sizes that are equal at first, such as batch and heads, the compiler takes for one.
    for seed, (n, shapes, queries) in enumerate([(10, ((6, 7), (12, 5)), 9), (3, ((9, 5), (2, 8)), 4)]):
        maps, *others = inputs(seed, n, shapes, queries)
        leaves = [tensor.requires_grad_() for tensor in (*maps, *others)]
        with use_backend(backend):
            got, expected = compiled(maps, *others), Attention()(maps, *others)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        grads, wanted = (torch.autograd.grad(output, leaves, torch.ones_like(output)) for output in (got, expected))
        torch.testing.assert_close(grads, wanted, rtol=1e-4, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_dynamic_sizes(strict: bool) -> None:
    batch, queries = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("queries", min=2, max=1000)
    maps = [
        {0: batch, 2: torch.export.Dim(f"height{i}", min=2, max=64), 3: torch.export.Dim(f"width{i}", min=2, max=64)}
        for i in range(2)
    ]
    example = inputs(0, 2, ((6, 7), (4, 5)), 9)
    with use_backend("native"):
        points = {0: batch, 1: queries}
        program = torch.export.export(Attention(), example, dynamic_shapes=(maps, points, points), strict=strict)
    operator = torch.ops.internimage.ms_deform_attn.default
    assert [node.target for node in program.graph.nodes].count(operator) == 1
    other = inputs(1, 5, ((3, 11), (8, 2)), 20)
    torch.testing.assert_close(program.module()(*other), Attention()(*other))


def test_the_torch_backend_leaves_no_opaque_operator_to_the_compiler() -> None:
    torch._dynamo.reset()
    with use_backend("torch"):
        assert_no_opaque_operator(Attention(), *inputs(0, 2, ((6, 7), (4, 5)), 9))


def flops(case: AttentionCase) -> int:
    with use_backend("native"), FlopCounterMode(display=False) as counter:
        multi_scale_deformable_attention(*case.arguments)
    return counter.get_total_flops()


def test_flops_are_counted_as_for_dcnv3() -> None:
    """5 multiply-adds per sample and channel, two operations each."""
    case = make_attention_case(0, n=3, heads=2, head_channels=4, queries=7, points=4)
    assert flops(case) == 2 * 5 * (3 * 7 * 2 * 3 * 4) * 4
    leaves = [tensor.requires_grad_() for tensor in case.tensors]
    with use_backend("native"), FlopCounterMode(display=False) as counter:
        multi_scale_deformable_attention(leaves[0], case.shapes, *leaves[1:]).sum().backward()
    assert counter.get_total_flops() == 3 * flops(case)
