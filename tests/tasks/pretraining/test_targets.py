"""Each target alone and all together: what they see, what gets a gradient, and H's shape."""

import numpy as np
import pytest
import torch
from pretraining_data import ALONE, recipe
from torch._subclasses.fake_tensor import FakeTensorMode

from internimage.tasks.pretraining.decoder import DenseDecoder
from internimage.tasks.pretraining.mixing import Mixture
from internimage.tasks.pretraining.momentum import follow_encoder, momentum_at
from internimage.tasks.pretraining.recipes import RECIPES
from internimage.tasks.pretraining.targets import Boltzmann, Gaussian, TextTarget, dense_map
from internimage.tasks.pretraining.train import build_model, build_optimizer

TARGETS = ("dense", "text", "category")


def only(*targets, **values):
    return recipe(**{f"{name}_weight": float(name in targets) for name in TARGETS}, **values)


def make_batch(images, mixed, *, size=64, cells=16, length=12, device="cpu"):
    rng = np.random.default_rng(0)
    rows = size // 32
    batch = {
        "image": torch.tensor(rng.normal(size=(images, 3, size, size)), dtype=torch.float32),
        "target_image": torch.tensor(rng.normal(size=(images, 3, size, size)), dtype=torch.float32),
        "blocks": torch.tensor(np.stack([rng.permutation(rows**2) for _ in range(images // mixed)])),
        "relative": torch.tensor([[0.1, 0.8], [0.9, -0.8]]).expand(images, 2, 2),
        "cells": torch.arange(cells).expand(images, cells),
        "label": torch.tensor(rng.integers(-1, 3, images)),
        "text_key": torch.tensor(rng.integers(-1, 3, images)),
        "tokens": torch.tensor(rng.integers(1, 300, (images, length))),
    }
    return {name: part.to(device) for name, part in batch.items()}


@pytest.mark.parametrize("likelihood", ["gaussian", "boltzmann"])
@pytest.mark.parametrize("targets", [("dense",), ("text",), ("category",), TARGETS])
def test_targets_work_alone_and_together_and_train_all_that_is_to_be_trained(targets, likelihood):
    chosen = only(
        *targets, dense_likelihood=likelihood, text_likelihood=likelihood, mixed_images=1 + (len(targets) > 1)
    )
    model = build_model(chosen, 3 if "category" in targets else 0, 300, ALONE)
    result = model.train()(make_batch(8, chosen.mixed_images))
    result["loss"].backward()
    without = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not without  # DistributedDataParallel would wait for them
    assert {name for name in result["figures"] if name in TARGETS} == set(targets)
    expected = sum(result["figures"][name] for name in targets)
    if likelihood == "gaussian":
        for name in set(targets) - {"category"}:
            kept = result["figures"]
            expected = expected + kept[f"{name}_variance"] + 0.04 * kept[f"{name}_covariance"]
    torch.testing.assert_close(result["loss"].detach(), expected)
    trained = {name for group in build_optimizer(chosen, model).param_groups for name in map(id, group["params"])}
    frozen = [weight for name, weight in model.named_parameters() if "momentum" in name]
    assert bool(frozen) == ("dense" in targets)
    assert not trained & set(map(id, frozen))


def test_one_image_that_is_not_mixed_gives_what_the_encoder_gives():
    model = build_model(only("category", mixed_images=1), 3, 0, ALONE).eval()
    batch = make_batch(4, 1)
    result = model(batch)
    logits = model.encoder(batch["image"])
    known = batch["label"] >= 0
    smoothed = torch.nn.functional.cross_entropy(logits[known], batch["label"][known], label_smoothing=0.1)
    torch.testing.assert_close(result["loss"], smoothed)
    features = model.encoder.forward_features(batch["image"]).mean((1, 2))
    torch.testing.assert_close(result["features"], features)


def test_the_decoder_sees_of_a_mixture_only_the_blocks_of_its_image():
    torch.manual_seed(0)
    decoder = DenseDecoder(24, 64, 2).eval()
    mixture = Mixture(torch.tensor([[3, 0, 1, 2]]), 2, 2)  # image 0 shows blocks 3 and 0, image 1 blocks 1 and 2
    features = torch.randn(1, 4, 4, 24)
    other = features.clone()
    other[:, :2, 2:] += 1  # block 1
    relative, cells = torch.tensor([[[0.0, 1.0]] * 2] * 2), torch.arange(16).expand(2, 16)
    before, after = decoder(features, mixture, relative, cells), decoder(other, mixture, relative, cells)
    torch.testing.assert_close(before[0], after[0])
    assert (before[1] - after[1]).abs().amax() > 1e-3
    moved = decoder(features, mixture, torch.tensor([[[0.3, 1.0], [0.0, 1.0]]] * 2), cells)
    assert (before - moved).abs().amax() > 1e-3
    # Queries see each other, so the same cells in another order give the same, in that order.
    torch.testing.assert_close(decoder(features, mixture, relative, cells.flip(1)).flip(1), before)


def test_the_momentum_copy_starts_as_the_encoder_and_follows_it():
    model = build_model(only("dense"), 0, 0, ALONE)
    images = torch.randn(2, 3, 64, 64)

    def maps():
        parts = (model.encoder.eval(), model.dense.momentum)
        return [dense_map(encoder.head, encoder.forward_stages(encoder.stem(images))) for encoder in parts]

    torch.testing.assert_close(*maps())
    before = {name: weight.clone() for name, weight in model.dense.momentum.named_parameters()}
    with torch.no_grad():
        for weight in model.encoder.parameters():
            weight.add_(1)
    follow_encoder(model.dense.momentum, model.encoder, 0.75)
    for name, weight in model.dense.momentum.named_parameters():
        torch.testing.assert_close(weight, before[name] + 0.25)
    assert model.train().dense.momentum.training is False
    assert [momentum_at(step, 4, 0.9) for step in (0, 2, 4)] == pytest.approx([0.9, 0.95, 1.0])


def test_stored_representations_take_the_place_of_a_text_encoder():
    target = TextTarget(torch.nn.Identity(), None, Boltzmann(symmetric=True))
    pooled, keys = torch.eye(4), torch.tensor([5, 6, -1, 7])
    found = target(pooled, {"embedding": torch.eye(4), "text_key": keys}, ALONE)
    scale = 1 / 0.07
    assert found.loss.item() == pytest.approx(np.log(np.exp(scale) + 2) - scale, abs=1e-5)


def test_gaussian_targets_are_normalised():
    prediction, target = torch.randn(6, 8), torch.randn(6, 8)
    likelihood = Gaussian(0.0, 0.0)
    first, second = (likelihood(prediction, 3 * target + shift, target, ALONE).loss for shift in (0, 5))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_name_what_they_learn(name):
    assert set(RECIPES[name].weights) <= set(TARGETS)
    assert RECIPES["quick"].weights.keys() == set(TARGETS)


def test_wrong_recipes_are_refused():
    for values, message in (
        ({"image_size": 80}, "--image-size must be a multiple of 32"),
        ({"mixed_images": 5}, "--mixed-images must be at most 4"),
        ({"mixed_images": 3}, "--mixed-images must be a divisor of 8"),
        ({"decoder_width": 100}, "--decoder-width must be a multiple of 64"),
        ({"dense_cells": 17}, "--dense-cells must be 1 to 16"),
        ({"layer_decay": 0.9}, "--layer-decay must be left away"),
    ):
        with pytest.raises(ValueError, match=message):
            recipe(**values)
    with pytest.raises(ValueError, match="nothing to learn"):
        only()


@pytest.mark.once
def test_h_fits_together_on_the_meta_device():
    chosen = RECIPES["internimage_h_joint_224"]
    with torch.device("meta"):
        model = build_model(chosen, 0, 49153, ALONE)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        result = model(make_batch(4, 2, size=224, cells=49, length=77))
    assert result["loss"].shape == ()
    assert result["features"].shape == (4, 1024)
    encoder = sum(weight.numel() for weight in model.encoder.parameters())
    assert encoder == sum(weight.numel() for weight in model.dense.momentum.parameters()) == 1_088_867_760
    assert model.text.projection(torch.empty(2, 768)).shape[1] == chosen.text_channels


def test_an_eighth_of_h_takes_a_step():
    chosen = recipe(model="test_h", grad_checkpointing=True, text_channels=768, learning_rate=1e-4)
    model = build_model(chosen, 3, 300, ALONE).train()
    optimizer = build_optimizer(chosen, model)
    batch = make_batch(4, 2)
    losses = []
    for _ in range(2):
        loss = model(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[1] < losses[0]
