"""Layer-wise learning rates of detectors and segmentors: the official rules, restated as names and layers."""

import pytest

from internimage.tasks.training.layer_decay import dense_layer_decay_scale

pytestmark = pytest.mark.once

DEPTHS = (2, 3, 4, 2)  # 11 blocks: layers 1 to 11; the stem is layer 0, what follows the backbone layer 12
LAYERS = {
    "backbone.stem.conv1.weight": 0,
    "backbone.stem.norm2.bias": 0,
    "backbone.stages.0.blocks.0.dcn.offset.weight": 1,
    "backbone.stages.0.blocks.1.mlp.fc2.bias": 2,
    "backbone.stages.0.norm.weight": 3,
    "backbone.stages.0.downsample.conv.weight": 3,
    "backbone.stages.1.blocks.2.norm1.weight": 5,
    "backbone.stages.1.downsample.norm.bias": 6,
    "backbone.stages.2.blocks.0.layer_scale1.gamma": 6,
    "backbone.stages.2.level2_norms.0.weight": 6,  # numbered like blocks, wherever it stands
    "backbone.stages.2.level2_norms.1.bias": 7,
    "backbone.stages.2.downsample.conv.weight": 10,
    "backbone.stages.3.blocks.0.mlp.fc1.weight": 10,
    "backbone.stages.3.blocks.1.mlp.fc1.weight": 11,
    "backbone.stages.3.norm.weight": 10,
    "head.fusion.conv.weight": 12,
    "head.query.weight": 0,
    "head.queries.weight": 12,
}


@pytest.mark.parametrize(("name", "layer"), LAYERS.items())
def test_rates_fall_from_the_head_to_the_stem(name, layer):
    scale = dense_layer_decay_scale(DEPTHS, 0.9, lowest=("head.query.",))
    assert scale(name) == pytest.approx(0.9 ** (12 - layer))


def test_a_decay_of_one_is_none():
    scale = dense_layer_decay_scale(DEPTHS, 1.0)
    assert {scale(name) for name in LAYERS} == {1.0}
