"""Pooling over a grid is that of torch, for every size."""

import pytest
import torch
import torch.nn.functional as F

from internimage.tasks.layers.conv_norm import ConvNorm, average_over_grid


@pytest.mark.parametrize("size", [1, 2, 3, 6])
@pytest.mark.parametrize("height", [1, 2, 5, 6, 13])
def test_averages_over_a_grid_are_those_of_torch(height: int, size: int) -> None:
    x = torch.randn(2, 3, height, 7, dtype=torch.float64)
    torch.testing.assert_close(average_over_grid(x, size), F.adaptive_avg_pool2d(x, size), rtol=1e-12, atol=1e-14)


def test_convolutions_start_as_in_the_official_heads() -> None:
    torch.manual_seed(0)
    unit = ConvNorm(64, 256, kernel_size=3)  # an auxiliary head's; standard deviation of the official model's: 0.0295
    assert unit.conv.bias is None
    assert unit.conv.weight.std().item() == pytest.approx(0.0295, abs=2e-4)
