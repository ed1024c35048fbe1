"""Parameter groups: which parameters decay, and at which rate each learns."""

import pytest
import torch
from torch import nn

from internimage import InternImage
from internimage.tasks.training.optimizer import build_adamw, set_learning_rate


def groups_by_name(model, optimizer):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}


def small(**arguments):
    return InternImage(channels=8, depths=(1, 1, 1, 1), groups=(1, 2, 4, 8), num_classes=3, **arguments)


def test_matrices_decay_and_vectors_do_not():
    model = small(layer_scale=1e-5, post_norm=True, center_feature_scale=True)
    groups = groups_by_name(model, build_adamw(model, 1e-3, 0.05))
    assert groups.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert groups[name]["weight_decay"] == (0.05 if parameter.ndim > 1 else 0), name
    assert groups["stages.0.blocks.0.dcn.center_scale.weight"]["weight_decay"] == 0.05
    assert groups["stages.0.blocks.0.layer_scale1.gamma"]["weight_decay"] == 0


def test_frozen_parameters_are_left_out():
    model = small()
    model.stages[0].requires_grad_(False)
    groups = groups_by_name(model, build_adamw(model, 1e-3, 0.05))
    assert not any(name.startswith("stages.0.") for name in groups)
    assert any(name.startswith("stages.1.") for name in groups)


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match="nothing to train"):
        build_adamw(small().requires_grad_(False), 1e-3, 0.05)


def test_scales_multiply_the_peak_of_their_group():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = build_adamw(model, 1e-3, 0.0, lr_scale=lambda name: 0.1 if name.startswith("0.") else 1.0)
    shown = set_learning_rate(optimizer, lambda step, peak: peak / (1 + step), step=1)
    rates = {name: group["lr"] for name, group in groups_by_name(model, optimizer).items()}
    assert shown == 5e-4
    assert rates["0.weight"] == pytest.approx(5e-5)
    assert rates["1.weight"] == pytest.approx(5e-4)


def test_weight_decay_spares_vectors_and_what_is_named():
    model = nn.ModuleDict({"offsets": nn.Linear(2, 2), "value": nn.Linear(2, 2)})
    optimizer = build_adamw(model, 1e-3, 0.05, undecayed=("offsets.",))
    decays = {name: group["weight_decay"] for name, group in groups_by_name(model, optimizer).items()}
    assert decays == {"offsets.weight": 0.0, "offsets.bias": 0.0, "value.weight": 0.05, "value.bias": 0.0}


def test_a_step_equals_torchs_adamw_with_one_group_a_parameter():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 3)
    optimizers = (
        build_adamw(ours, 1e-2, 0.1),
        torch.optim.AdamW(
            [{"params": [theirs.weight], "weight_decay": 0.1}, {"params": [theirs.bias], "weight_decay": 0.0}], lr=1e-2
        ),
    )
    for _ in range(3):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)
