"""Several real processes train what one trains, and take over each other's checkpoints. They talk by gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy_training

from internimage.tasks.training.checkpoints import read_weights

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")


def run(output, processes, *options, status=0):
    """Start the toy run under torchrun; returns what it wrote to stderr."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += [
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
        toy_training.__file__,
        str(output),
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == status, done.stderr[-3000:]
    return done.stderr


def rows(output):
    return [json.loads(line) for line in (Path(output) / "log.jsonl").read_text().splitlines()]


def losses(output):
    return [row["loss"] for row in rows(output) if "loss" in row]


def weights(output, average=False):
    newest = max((Path(output) / "checkpoints").iterdir())
    return read_weights(newest, average=average)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process, in float64, so that what remains as a difference is no rounding that Adam has blown up."""
    output = tmp_path_factory.mktemp("alone") / "run"
    command = [sys.executable, toy_training.__file__, output, "--epochs", "2", "--double"]
    subprocess.run(command, check=True, capture_output=True)
    return output


def assert_same_training(output, alone):
    for found, expected in zip(rows(output), rows(alone), strict=True):
        for name in {"loss", "grad_norm", "nll", "ema_nll"} & expected.keys():
            assert found[name] == pytest.approx(expected[name], rel=1e-9)
    for average in (False, True):
        found, expected = weights(output, average), weights(alone, average)
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-9)


def test_two_processes_train_what_one_does_and_one_goes_on_with_their_checkpoint(alone, tmp_path):
    output = tmp_path / "run"
    run(output, 2, "--double", "--epochs", "2", "--harm-step", "4", "--harm", "SIGTERM", status=1)
    assert len(losses(output)) == 5
    text = run(output, 1, "--double", "--epochs", "2")
    assert "resuming at step 5 of 6" in text
    assert_same_training(output, alone)


def test_two_processes_shard_the_weights_and_four_go_on_with_their_checkpoint(alone, tmp_path):
    output = tmp_path / "run"
    run(output, 2, "--double", "--epochs", "2", "--strategy", "fsdp", "--harm-step", "2", "--harm", "SIGTERM", status=1)
    (folder,) = (output / "checkpoints").iterdir()
    assert len(list(folder.glob("*.safetensors"))) == 2
    text = run(output, 4, "--double", "--epochs", "2", "--strategy", "fsdp")
    assert "resuming at step 3 of 6" in text
    assert_same_training(output, alone)


def test_sharded_weights_in_bfloat16_learn_as_well(tmp_path):
    run(tmp_path / "float32", 1, "--epochs", "2")
    run(tmp_path / "run", 2, "--epochs", "2", "--strategy", "fsdp", "--precision", "bfloat16", "--grad-checkpointing")
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "float32"), abs=0.05)


def test_accumulated_parts_are_averaged_over_processes_once(tmp_path):
    for processes, accumulation in ((1, 4), (2, 2)):
        options = ["--epochs", "1", "--warmup-epochs", "0", "--accumulation", str(accumulation)]
        run(tmp_path / f"run{processes}", processes, *options, "--no-sync-batch-norm")
    assert losses(tmp_path / "run2") == pytest.approx(losses(tmp_path / "run1"), rel=2e-6)
