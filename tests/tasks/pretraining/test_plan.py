"""The planner's memory against what torch's allocator hands out, its operations against hand counts."""

import json
from dataclasses import replace

import pytest
import torch
from pretraining_data import ALONE, recipe

from internimage.tasks import cli
from internimage.tasks.bench import count_operations
from internimage.tasks.pretraining.cost import LiveBytes, StepCost, fake_batch, memory, step_cost
from internimage.tasks.pretraining.plan import DEVICES, plan
from internimage.tasks.pretraining.train import build_model, build_optimizer

pytestmark = pytest.mark.once


def measured_peak(chosen, images):
    """Bytes that torch's allocator has handed out at most, from before the model is built to its second step's end."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        model = build_model(chosen, 1000, chosen.vocabulary + 1, ALONE).train()
        optimizer = build_optimizer(chosen, model)
        batch = fake_batch(chosen, images)
        for _ in range(2):
            model(batch)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
    given = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(given, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_is_what_the_allocator_hands_out(checkpointing):
    chosen = recipe(grad_checkpointing=checkpointing, target_view="same", image_size=96, sync_batch_norm=False)
    cost = step_cost(chosen, 24)
    batch_bytes = sum(part.numel() * part.element_size() for part in fake_batch(chosen, 24).values())
    expected = memory(cost, chosen, 1).total + batch_bytes
    assert measured_peak(chosen, 24) == pytest.approx(expected, rel=0.1)


def test_operations_are_those_of_the_layers():
    """Of the stem, whose convolutions are 3 -> 4 at half and 4 -> 8 at a quarter of the size, and the whole step."""
    chosen = recipe(dense_weight=0.0, text_weight=0.0, mixed_images=1)
    cost = step_cost(chosen, 2)
    stem = 2 * 9 * (3 * 4 * 32**2 + 4 * 8 * 16**2) * 2
    forward = cost.forward_flops["encoder"]
    assert stem < forward < 20 * stem
    assert forward == 2 * count_operations("test_conv", 64, 64)[1]
    assert cost.flops == 3 * forward - 2 * 9 * 3 * 4 * 32**2 * 2  # backward twice, but for the image's gradient
    again = step_cost(replace(chosen, grad_checkpointing=True), 2)
    assert cost.flops + 0.3 * forward < again.flops < cost.flops + forward
    assert again.parameters == cost.parameters


def test_live_bytes_count_storages_once_and_while_they_live():
    with LiveBytes() as live:
        x = torch.zeros(100)
        view = x[:50]
        y = x + 1
        assert live.now == 800
        del y
        view.add_(1)
        assert live.now == 400
        del x, view
    assert (live.now, live.most) == (0, 800)


def test_sharded_states_shrink_and_time_follows_from_operations():
    chosen = recipe(strategy="fsdp", precision="bfloat16")
    cost = StepCost(8, {"encoder": 1000}, 900, 100, 200, {"encoder": 10**9}, 4 * 10**9, 5000)
    one, many = memory(cost, chosen, 1), memory(cost, chosen, 4)
    for name in ("parameters", "gradients", "optimiser", "momentum"):
        assert getattr(many, name) == getattr(one, name) / 4
    assert memory(cost, replace(chosen, strategy="ddp"), 4).parameters == one.parameters
    assert (one.negatives, many.activations) == (0, one.activations)
    result = plan(chosen, cost, cost, DEVICES["h100"], images_seen=8000, gpus=4, utilisation=0.5, image_bytes=10)
    assert result.seconds == pytest.approx(1000 * cost.flops / (4 * 989e12 * 0.5))
    assert (result.steps, result.bytes_to_read) == (1000, 80000)


def test_the_command_prints_the_plan_and_says_what_does_not_fit(tmp_path, capsys):
    words = [
        "plan",
        "--recipe",
        "quick_supervised",
        "--variant",
        "test_conv",
        "--images",
        "1e9",
        "--gpus",
        "2",
        "--type",
        "h100",
    ]
    assert cli.main([*words, "--epochs", "2", "--image-size", "64", "--json", str(tmp_path / "plan.json")]) == 0
    out = capsys.readouterr().out
    assert "31,250,000 steps" in out
    assert "of 80" in out
    report = json.loads((tmp_path / "plan.json").read_text())
    assert report["steps"] == 31_250_000
    assert report["total"] == pytest.approx(sum(report["memory"].values()))
    assert cli.main([*words, "--batch-size", "66", "--micro-batch", "4"]) == 1
    assert "can't be shared by 2 GPUs" in capsys.readouterr().err
