"""Learning rates: against the fact sheet's figures, PyTorch's own schedulers, and their definitions."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, PolynomialLR

from internimage.tasks.training.schedule import cosine, polynomial, stepped


def test_the_official_cosine_steps_down_where_the_warm_up_ends():
    schedule = cosine(total=300, warmup=20, warmup_lr=5e-7, min_lr=5e-6, shifted=False)
    assert schedule(0, 4e-3) == 5e-7
    assert schedule(10, 4e-3) == pytest.approx((5e-7 + 4e-3) / 2)
    assert schedule(20, 4e-3) / 4e-3 == pytest.approx(0.989, abs=5e-4)


def test_the_shifted_cosine_reaches_its_peak():
    schedule = cosine(total=300, warmup=20)
    assert schedule(20, 1.0) == 1.0
    assert schedule(160, 1.0) == pytest.approx(0.5)
    assert schedule(300, 1.0) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        (cosine(total=50, min_lr=0.01), partial(CosineAnnealingLR, T_max=50, eta_min=0.01)),
        (polynomial(total=50, power=0.9), partial(PolynomialLR, total_iters=50, power=0.9)),
        (stepped([20, 40]), partial(MultiStepLR, milestones=[20, 40], gamma=0.1)),
    ],
)
def test_without_warm_up_schedules_are_pytorchs(schedule, theirs):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    expected = theirs(optimizer)
    for step in range(50):
        assert schedule(step, 0.3) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        expected.step()


def test_the_polynomial_warm_up_is_a_factor_on_the_curve():
    schedule = polynomial(total=160_000, warmup=1500, warmup_ratio=1e-6)
    assert schedule(0, 6e-5) == pytest.approx(6e-11)
    assert schedule(750, 6e-5) == pytest.approx(6e-5 * (1 - 750 / 160_000) * (1 - 0.5 * (1 - 1e-6)))
    assert schedule(1500, 6e-5) == pytest.approx(6e-5 * (1 - 1500 / 160_000))


def test_the_official_step_schedule_grows_from_a_thousandth_in_500_steps():
    schedule = stepped([58_640, 80_630], warmup=500, warmup_ratio=0.001)
    for step, share in [(0, 0.001), (250, 0.5005), (500, 1), (58_639, 1), (58_640, 0.1), (80_630, 0.01)]:
        assert schedule(step, 1e-4) == pytest.approx(share * 1e-4)


@given(st.integers(1, 50), st.integers(0, 40), st.booleans(), st.floats(1e-5, 1e-2))
def test_learning_rates_stay_between_the_least_and_the_peak(steps, warmup, shifted, peak):
    total = warmup + steps
    for schedule in (
        cosine(total=total, warmup=warmup, min_lr=1e-6, shifted=shifted),
        polynomial(total=total, warmup=warmup, min_lr=1e-6),
    ):
        values = [schedule(step, peak) for step in range(total)]
        assert all(0 <= value <= peak * (1 + 1e-9) for value in values)
        assert values[warmup:] == sorted(values[warmup:], reverse=True)
