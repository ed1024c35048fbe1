"""Checks that the tests of every operator make."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def assert_same_for_any_threads(compute: Callable[[], Sequence[Tensor]]) -> None:
    """The results are equal to the bit however many threads compute them."""
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(compute())
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(got, want) for got, want in zip(other, results[0], strict=True))


def assert_no_opaque_operator(function: Callable[..., Any], *inputs: Any) -> None:
    """Dynamo's one graph of the function holds operators of PyTorch alone."""
    graphs = []

    def keep(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    torch.compile(function, backend=keep, fullgraph=True)(*inputs)
    assert len(graphs) == 1
    assert all("internimage" not in str(node.target) for node in graphs[0].graph.nodes)
