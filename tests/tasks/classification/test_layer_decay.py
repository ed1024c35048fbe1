"""Layer-wise learning rates by the official rules: FACTS are restated here as a list of names and exponents."""

import pytest
import torch

from internimage import create_model
from internimage.tasks.classification.layer_decay import layer_decay_scale
from internimage.tasks.classification.recipes import RECIPES
from internimage.tasks.classification.train import build_optimizer
from internimage.variants import VARIANTS

DEPTHS = (2, 3, 4, 2)  # 11 blocks

BLOCKS_THAT_FOLLOW = {
    "stages.3.blocks.1.mlp.fc1.weight": 0,
    "stages.3.blocks.0.norm1.bias": 1,
    "stages.2.blocks.3.dcn.mask.weight": 2,
    "stages.2.downsample.conv.weight": 1,  # with the first block of stage 4
    "stages.2.norm.weight": 1,
    "stages.1.blocks.0.dcn.input_proj.weight": 8,
    "stages.0.norm.bias": 8,
    "stages.0.downsample.norm.weight": 8,
    "stages.0.blocks.0.mlp.fc2.bias": 10,
    "stem.conv1.weight": 10,
    "stem.norm2.bias": 10,
}
FULL_RATE = ["head.classifier.weight", "head.conv.weight", "stages.3.norm.weight", "stages.2.level2_norms.0.weight"]


def test_rates_fall_with_the_blocks_that_follow():
    scale = layer_decay_scale(DEPTHS, 0.9)
    for name, exponent in BLOCKS_THAT_FOLLOW.items():
        assert scale(name) == pytest.approx(0.9**exponent), name
    assert all(scale(name) == 1 for name in FULL_RATE)


def test_offsets_and_centre_scales_have_their_own_factor_and_masks_do_not():
    plain, scaled = layer_decay_scale(DEPTHS, 0.9), layer_decay_scale(DEPTHS, 0.9, 0.1)
    for part, factor in (("offset", 0.1), ("center_scale", 0.1), ("mask", 1.0), ("output_proj", 1.0)):
        name = f"stages.2.blocks.1.dcn.{part}.weight"
        assert scaled(name) == pytest.approx(factor * plain(name))


def test_every_parameter_of_h_has_a_rate_and_the_norms_between_blocks_keep_the_full_one():
    with torch.device("meta"):
        model = create_model("internimage_h")
    scale = layer_decay_scale(VARIANTS["internimage_h"].depths, 0.9)
    total = sum(VARIANTS["internimage_h"].depths)
    for name, _ in model.named_parameters():
        if name.startswith(("head.", "stages.3.norm.", "stages.2.level2_norms.")):
            assert scale(name) == 1
        else:
            assert 0.9 ** (total - 1) * (1 - 1e-9) <= scale(name) <= 1


def test_the_recipe_without_layer_decay_has_one_rate_for_all():
    with torch.device("meta"):
        model = create_model("internimage_l")
    rates = {}
    for suffix in ("", "_without_lr_decay"):
        optimizer = build_optimizer(RECIPES[f"internimage_l_22kto1k_384{suffix}"], model)
        rates[suffix] = {group["peak_lr"] for group in optimizer.param_groups}
    assert rates["_without_lr_decay"] == {2e-5}
    assert max(rates[""]) == 2e-5
    assert min(rates[""]) == pytest.approx(2e-5 * 0.9**36 * 0.1)
