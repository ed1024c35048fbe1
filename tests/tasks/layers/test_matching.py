"""The matching is the cheapest of all."""

from itertools import permutations

import pytest
import torch
import torch.distributed as dist

from internimage.tasks.layers.matching import match, mean_over_devices


@pytest.mark.parametrize("seed", range(5))
def test_no_other_assignment_is_cheaper(seed: int) -> None:
    cost = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))
    predictions, targets = match(cost)
    assert predictions.tolist() == sorted(set(predictions.tolist()))
    assert sorted(targets.tolist()) == [0, 1, 2, 3]
    least = min(sum(cost[p, t] for t, p in enumerate(chosen)) for chosen in permutations(range(6), 4))
    assert cost[predictions, targets].sum() == pytest.approx(float(least))


def test_nothing_is_matched_with_nothing() -> None:
    predictions, targets = match(torch.zeros(5, 0))
    assert predictions.shape == targets.shape == (0,)


def test_costs_that_are_not_finite_are_avoided() -> None:
    nan, inf = float("nan"), float("inf")
    assert match(torch.tensor([[nan, 2.0], [3.0, inf]]))[1].tolist() == [1, 0]
    assert match(torch.full((2, 1), nan))[1].tolist() == [0]


def test_divisors_are_averaged_over_the_processes(tmp_path) -> None:
    like = torch.zeros(1)
    assert mean_over_devices(3, like) == 3
    assert mean_over_devices(0, like) == 1
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert mean_over_devices(3, like) == 3
    finally:
        dist.destroy_process_group()
