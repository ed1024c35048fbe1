"""The moving average equals its definition, and steps in for the weights without a trace."""

import math

import pytest
import torch
from torch import nn

from internimage.tasks.training.averaging import Average


def model_with_statistics():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))


@pytest.mark.parametrize("warmup", [0, 3])
def test_the_average_is_the_weighted_sum_of_all_weights_so_far(warmup):
    model = model_with_statistics()
    average = Average(model, 0.9, warmup)
    history = [model[0].weight.detach().clone()]
    statistics = [model[1].running_mean.clone()]
    for step in range(4):
        with torch.no_grad():
            model[0].weight.add_(torch.randn_like(model[0].weight))
        model(torch.randn(4, 2, 3, 3))
        average.update(model, step)
        history.append(model[0].weight.detach().clone())
        statistics.append(model[1].running_mean.clone())
    for name, values in (("0.weight", history), ("1.running_mean", statistics)):
        # "ExpMomentumEMA" of mmdetection: the new weights count (1 - m) exp(-(1 + step) / warmup) + m, where m = 0.1.
        new = [1.0, *(0.1 + 0.9 * math.exp(-(1 + step) / warmup) if warmup else 0.1 for step in range(4))]
        shares = [share * math.prod(1 - later for later in new[place + 1 :]) for place, share in enumerate(new)]
        expected = sum(share * value.double() for share, value in zip(shares, values, strict=True))
        torch.testing.assert_close(average.values[name].double(), expected, rtol=1e-6, atol=1e-7)
    assert average.values["1.num_batches_tracked"] == 4


def test_the_model_gets_its_own_weights_back():
    model = model_with_statistics()
    average = Average(model, decay=0.5)
    with torch.no_grad():
        model[0].weight.zero_()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with average.in_place_of(model):
        assert torch.equal(model[0].weight, average.values["0.weight"])
        assert model[0].weight.abs().sum() > 0
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
