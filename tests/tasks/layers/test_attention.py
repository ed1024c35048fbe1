"""Attention and encodings of places are the official ones, and those of other implementations."""

import pytest
import torch
from golden_heads import deviation, golden
from torch import nn

from internimage.tasks.layers.attention import MultiheadAttention, sine_position_encoding


@pytest.mark.parametrize("temperature", [20, 10000])
def test_encodings_of_places_are_the_official_ones(temperature: int) -> None:
    parts = golden("parts")
    got = sine_position_encoding(~parts["in/pe_mask"], 16, torch.float32, temperature=temperature)
    assert deviation(got, parts[f"out/pe_t{temperature}_f8"]) < 1e-6


def test_encodings_of_places_are_computed_in_float32_at_least() -> None:
    valid = torch.ones(1, 40, 50, dtype=torch.bool)
    precise = sine_position_encoding(valid, 64, torch.float64)
    assert deviation(sine_position_encoding(valid, 64, torch.float32), precise) < 1e-5
    assert torch.equal(
        sine_position_encoding(valid, 64, torch.float16), sine_position_encoding(valid, 64, torch.float32).half()
    )


def test_attention_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = MultiheadAttention(24, 3).double(), nn.MultiheadAttention(24, 3, batch_first=True).double()
    theirs.load_state_dict(ours.state_dict())
    query, key, value = (torch.randn(2, length, 24, dtype=torch.float64) for length in (5, 7, 7))
    mask = torch.rand(2, 5, 7) < 0.5
    mask[..., 0] = True
    for seen in (None, mask):
        blocked = None if seen is None else ~seen.repeat_interleave(3, dim=0)
        expected, _ = theirs(query, key, value, attn_mask=blocked)
        torch.testing.assert_close(ours(query, key, value, seen), expected, rtol=1e-10, atol=1e-12)


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="got 24 channels, 5 heads"):
        MultiheadAttention(24, 5)
