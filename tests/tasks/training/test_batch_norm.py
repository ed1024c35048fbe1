"""Synchronised batch normalisation equals BatchNorm2d over the joined batch: output, statistics, gradients."""

import pytest
import torch
import torch.multiprocessing as mp
from batch_norm_step import batch, build, process, train_step
from torch import nn

from internimage.tasks.training.batch_norm import SyncBatchNorm, synchronise_batch_norms


def test_two_processes_normalise_their_joined_batch(tmp_path):
    results = mp.get_context("spawn").SimpleQueue()
    mp.spawn(process, (tmp_path / "store", results), nprocs=2)
    found = dict(results.get() for _ in range(2))
    weight = torch.linspace(-1, 1, 360).view(5, 3, 4, 6)
    expected = train_step(build(nn.BatchNorm2d, torch.float64), batch(torch.float64), weight.double())
    y, x_grad, weight_grad, bias_grad, mean, variance = zip(
        *([torch.from_numpy(part).double() for part in found[rank]] for rank in range(2)), strict=True
    )
    for pair, whole in zip((y, x_grad), expected[:2], strict=True):
        torch.testing.assert_close(torch.cat(pair), whole, rtol=1e-4, atol=2e-4)
    for pair, whole in zip((weight_grad, bias_grad), expected[2:4], strict=True):
        torch.testing.assert_close(sum(pair), whole, rtol=1e-4, atol=2e-4)
    for pair, whole in zip((mean, variance), expected[4:], strict=True):
        assert torch.equal(pair[0], pair[1])
        torch.testing.assert_close(pair[0], whole, rtol=1e-5, atol=1e-5)


def test_one_process_uses_the_plain_layer():
    plain, ours = (build(kind, torch.float32) for kind in (nn.BatchNorm2d, SyncBatchNorm))
    weight = torch.linspace(-1, 1, 360).view(5, 3, 4, 6)
    results = [train_step(norm, batch(torch.float32), weight) for norm in (plain, ours)]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("affine", [True, False])
def test_all_batch_norms_of_a_model_are_replaced_with_their_weights(affine):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(nn.BatchNorm2d(3, affine=affine), nn.ReLU()))
    model(torch.randn(4, 3, 5, 5))
    before = model.state_dict()
    synchronise_batch_norms(model)
    assert type(model[1][0]) is SyncBatchNorm
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
