"""Several real processes pre-train what one does, with either strategy, and go on with each other's checkpoints."""

import pytest
import safetensors.torch
import torch
from pretraining_data import recipe, rows, train_in_processes

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("alone") / "run"
    train_in_processes(1, recipe(), data, output)
    return output


def assert_same_training(output, alone):
    timing = {"images_per_second", "data_wait", "memory_mib"}
    for found, expected in zip(rows(output), rows(alone), strict=True):
        assert found.keys() == expected.keys()
        for name in expected.keys() - timing:
            tolerance = 1e-6 if name == "effective_rank" else 1e-9  # roots of eigenvalues that are 0 but for rounding
            assert found[name] == pytest.approx(expected[name], rel=tolerance, abs=1e-9), name
    found, expected = (safetensors.torch.load_file(run / "best.safetensors") for run in (output, alone))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("count", "strategy"), [(2, "ddp"), pytest.param(4, "fsdp", marks=pytest.mark.once)])
def test_processes_pretrain_what_one_does(count, strategy, alone, data, tmp_path):
    output = tmp_path / "run"
    train_in_processes(count, recipe(strategy=strategy, grad_checkpointing=strategy == "fsdp"), data, output)
    assert_same_training(output, alone)
