"""Deformable attention is the official one."""

import pytest
import torch
from golden_heads import deviation, golden
from torch import Tensor

from internimage.ops import multi_scale_deformable_attention
from internimage.tasks.layers.deformable_attention import DeformableAttention, pixel_centres

PARTS = golden("parts")
SIZES = [(int(height), int(width)) for height, width in PARTS["in/msda_shapes"]]


def official_layer() -> DeformableAttention:
    layer = DeformableAttention(24, 4, levels=3, points=4)
    names = {"offsets": "sampling_offsets", "weights": "attention_weights"}
    state = {}
    for key in layer.state_dict():
        part, _, kind = key.partition(".")
        state[key] = PARTS.state[f"msda.{names.get(part, part)}.{kind}"]
    layer.load_state_dict(state)
    return layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_operator_is_the_official_one(dtype: torch.dtype) -> None:
    tensors = [PARTS[f"in/msda_{name}"].to(dtype) for name in ("value", "loc", "weight")]
    got = multi_scale_deformable_attention(tensors[0], SIZES, *tensors[1:])
    assert got.dtype == dtype
    assert deviation(got, PARTS["out/msda_core"]) < 1e-6


@pytest.mark.parametrize("reference", ["ref2", "ref4"])
def test_the_layer_is_the_official_one(reference: str) -> None:
    query, position, value = (PARTS[f"in/msda_mod.{name}"].transpose(0, 1) for name in ("query", "query_pos", "val"))
    layer = official_layer()
    got = query + layer(query + position, PARTS[f"in/msda_mod.{reference}"], value, SIZES, PARTS["in/msda_mod.pad"])
    assert deviation(got, PARTS[f"out/msda_mod_{reference}"].transpose(0, 1)) < 1e-6


def test_heads_start_in_the_official_directions() -> None:
    layer = DeformableAttention(16, 8, levels=4, points=4)
    expected = PARTS["out/msda_init_offset_bias_8heads_4levels_4points"]
    torch.testing.assert_close(layer.offsets.bias.detach(), expected)
    assert not layer.offsets.weight.any()
    assert not layer.weights.weight.any()


def test_places_are_told_apart_in_half_types() -> None:
    # In bfloat16 all the centres of a map 300 pixels wide could not be written down.
    size = [(2, 300)]
    value = torch.arange(600.0).view(1, 600, 1, 1) / 600
    centres = pixel_centres(size, value.bfloat16()).view(1, 600, 1, 1, 1, 2)
    weights = torch.ones(1, 600, 1, 1, 1).bfloat16()
    got = multi_scale_deformable_attention(value.bfloat16(), size, centres, weights)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.flatten(), value.bfloat16().flatten(), rtol=0, atol=1e-9)


def test_pixel_centres_are_those_of_a_grid() -> None:
    got = pixel_centres([(2, 3), (1, 1)], torch.empty(0))
    expected: Tensor = torch.tensor(
        [[1 / 6, 1 / 4], [1 / 2, 1 / 4], [5 / 6, 1 / 4], [1 / 6, 3 / 4], [1 / 2, 3 / 4], [5 / 6, 3 / 4], [1 / 2, 1 / 2]]
    )
    torch.testing.assert_close(got, expected.view(1, 7, 1, 2))


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="got 24 channels, 5 heads"):
        DeformableAttention(24, 5)
