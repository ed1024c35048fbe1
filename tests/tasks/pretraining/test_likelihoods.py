"""Likelihoods and regularisers against naive second implementations, known information, and one process."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from scipy.special import i0, i1
from torch import multiprocessing

from internimage.tasks.pretraining.indicators import indicators
from internimage.tasks.pretraining.likelihoods import boltzmann, gaussian, mean_of_valid, spread
from internimage.tasks.training.distributed import Processes

ALONE = Processes(torch.device("cpu"))
VALID = torch.tensor([True, True, False, True, True, True])
KEYS = torch.tensor([7, 3, -1, 7, 4, 3])


def vectors(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_choice(prediction, target, scale, valid, keys):
    """Loss and choices of each valid sample, by loops."""
    losses, choices = [], []
    for i in range(len(prediction)):
        if not valid[i]:
            continue
        scores = {
            j: scale * float(torch.dot(prediction[i], target[j]) / prediction[i].norm() / target[j].norm())
            for j in range(len(target))
            if j == i or (valid[j] and keys[j] != keys[i])
        }
        losses.append(math.log(sum(math.exp(score) for score in scores.values())) - scores[i])
        choices.append(math.log(len(scores)))
    return np.array(losses), np.array(choices)


@pytest.mark.parametrize("symmetric", [False, True])
def test_boltzmann_is_the_cross_entropy_of_the_right_one_among_different_targets(symmetric):
    prediction, target = vectors(6, 4), vectors(6, 4, seed=1)
    found = boltzmann(prediction, target, 5.0, ALONE, valid=VALID, keys=KEYS, symmetric=symmetric)
    forward, choices = naive_choice(prediction, target, 5.0, VALID, KEYS)
    backward, _ = naive_choice(target, prediction, 5.0, VALID, KEYS)
    expected = (forward + backward) / 2 if symmetric else forward
    assert found.loss.item() == pytest.approx(expected.mean(), rel=1e-12)
    assert found.information.item() == pytest.approx((choices - forward).mean(), rel=1e-12)


def test_gradients_match_finite_differences():
    inputs = [vectors(6, 4).requires_grad_(), vectors(6, 4, seed=1).requires_grad_()]

    def losses(prediction, target):
        chosen = boltzmann(prediction, target, 5.0, ALONE, valid=VALID, keys=KEYS, symmetric=True).loss
        kept = spread(target, ALONE, valid=VALID)
        return chosen, gaussian(prediction, target, ALONE, valid=VALID), kept.variance, kept.covariance

    assert torch.autograd.gradcheck(losses, inputs)


@pytest.mark.parametrize("concentration", [1.0, 8.0])
def test_boltzmann_finds_the_information_of_a_von_mises_channel(concentration):
    """y = x plus von Mises noise on the circle: scores are the true log-density ratio, so the bound is nearly tight."""
    bessel = i1(concentration) / i0(concentration)
    information = concentration * bessel - math.log(i0(concentration))
    rng = np.random.default_rng(0)
    x = rng.uniform(-np.pi, np.pi, 3000)
    y = x + rng.vonmises(0, concentration, 3000)
    x, y = (torch.tensor(np.stack([np.cos(angle), np.sin(angle)], 1)) for angle in (x, y))
    bound = boltzmann(x, y, concentration, ALONE).information.item()
    assert bound == pytest.approx(information, abs=0.04)  # three standard errors of 3000 samples
    other_scale = boltzmann(x, y, 3 * concentration, ALONE).information.item()
    assert other_scale < information - 0.1
    few = np.mean([boltzmann(x[i : i + 2], y[i : i + 2], concentration, ALONE).information for i in range(0, 3000, 2)])
    assert few < min(math.log(2), information)


def test_gaussian_is_half_the_mean_square_of_what_is_valid():
    prediction, target = vectors(6, 4).numpy(), vectors(6, 4, seed=1).numpy()
    found = gaussian(torch.tensor(prediction), torch.tensor(target), ALONE, valid=VALID)
    assert found.item() == pytest.approx(((prediction - target) ** 2)[VALID.numpy()].mean() / 2)
    nothing = gaussian(torch.tensor(prediction), torch.tensor(target), ALONE, valid=torch.zeros(6, dtype=torch.bool))
    assert nothing.item() == 0


def test_spread_is_that_of_the_covariance_matrix():
    x = vectors(50, 5) @ vectors(5, 5, seed=1) * 0.4
    valid = torch.arange(50) % 3 != 0
    covariance = np.cov(x[valid].numpy().T)
    found = spread(x, ALONE, valid=valid)
    short = np.maximum(0, 1 - np.sqrt(np.diag(covariance) + 1e-4)).mean()
    assert found.variance.item() == pytest.approx(short, rel=1e-12)
    off_diagonal = covariance[~np.eye(5, dtype=bool)]
    assert found.covariance.item() == pytest.approx((off_diagonal**2).sum() / 5, rel=1e-12)


def test_spread_takes_representations_out_of_collapse():
    start = torch.ones(64, 8, dtype=torch.float64) + 1e-2 * vectors(64, 8)
    x = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        sum(spread(x, ALONE)).backward()
        optimizer.step()
    before, after = indicators(start, ALONE), indicators(x, ALONE)
    assert before.std < 0.02
    assert x.std(0).min() > 0.95
    assert after.effective_rank > 7


def test_indicators_tell_how_many_directions_are_used():
    basis = torch.linalg.qr(vectors(16, 16))[0]
    for directions in (1, 3, 8):
        signs = torch.cat([torch.eye(directions), -torch.eye(directions)]).double()
        found = indicators(5 * signs @ basis[:directions], ALONE)
        assert found.effective_rank == pytest.approx(directions, rel=1e-6)
    assert indicators(torch.ones(9, 16), ALONE) == pytest.approx((1, 0), abs=1e-6)
    assert indicators(vectors(4000, 16), ALONE) == pytest.approx((16, 1), rel=0.01)


def all_losses(prediction, target, valid, keys, processes):
    """A sum of everything that processes share."""
    chosen = boltzmann(prediction, target, 5.0, processes, valid=valid, keys=keys, symmetric=True)
    kept = spread(target, processes, valid=valid)
    squared = gaussian(prediction, target, processes, valid=valid)
    return chosen.loss + 2 * kept.variance + 3 * kept.covariance + squared


def share_of_a_process(rank, world_size, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world_size)
    processes = Processes(torch.device("cpu"), rank, world_size)
    own = slice(rank * 6 // world_size, (rank + 1) * 6 // world_size)
    inputs = [x[own].clone().requires_grad_() for x in (vectors(6, 4), vectors(6, 4, seed=1))]
    loss = all_losses(*inputs, VALID[own], KEYS[own], processes)
    loss.backward()
    rank_std = torch.tensor(indicators(inputs[0], processes))
    torch.save([loss.detach(), *(x.grad for x in inputs), rank_std], f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_have_the_loss_and_the_gradients_of_one(world_size, tmp_path):
    """Of six samples each has its share, with unequal numbers of valid ones; processes average losses and gradients."""
    multiprocessing.start_processes(share_of_a_process, (world_size, tmp_path), world_size, start_method="fork")
    loss, *gradients, found = zip(
        *(torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world_size)), strict=True
    )
    inputs = [vectors(6, 4).requires_grad_(), vectors(6, 4, seed=1).requires_grad_()]
    expected = all_losses(*inputs, VALID, KEYS, ALONE)
    expected.backward()
    torch.testing.assert_close(torch.stack(loss).mean(), expected.detach(), rtol=1e-12, atol=0)
    for parts, x in zip(gradients, inputs, strict=True):
        torch.testing.assert_close(torch.cat(parts) / world_size, x.grad, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(found[0], torch.tensor(indicators(inputs[0], ALONE)))


def test_a_mean_over_nothing_is_zero_and_has_a_gradient():
    values = vectors(3).requires_grad_()
    mean_of_valid(values, torch.zeros(3, dtype=torch.bool), ALONE).backward()
    assert values.grad.tolist() == [0, 0, 0]
