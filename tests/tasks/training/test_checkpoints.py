"""Checkpoints come back to the bit, and one that is not whole is never used."""

import json
import resource
import shutil
import signal

import pytest
import safetensors.torch
import torch
from torch import nn

from internimage.tasks.training.averaging import Average
from internimage.tasks.training.checkpoints import CheckpointError, Checkpoints, read_state, read_weights
from internimage.tasks.training.distributed import Processes
from internimage.tasks.training.optimizer import build_adamw

ALONE = Processes(torch.device("cpu"))


class Trained:
    """A small model, its optimiser and its average after some steps."""

    def __init__(self, steps, width=4):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Conv2d(2, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 2, 1))
        self.optimizer = build_adamw(self.model, 1e-2, 0.1)
        self.average = Average(self.model, 0.9)
        for _ in range(steps):
            self.step()

    def step(self):
        self.optimizer.zero_grad()
        self.model(torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(1))).square().mean().backward()
        self.optimizer.step()
        self.average.update(self.model, step=0)

    @property
    def parts(self):
        return self.model, self.optimizer, self.average

    def tensors(self):
        states = [t for state in self.optimizer.state.values() for t in state.values()]
        return [*self.model.state_dict().values(), *self.average.values.values(), *states]


def saved(folder, steps=(3,), keep=5):
    checkpoints = Checkpoints(folder, ALONE, keep)
    for step in steps:
        checkpoints.save(step, *Trained(step).parts, {"note": step})
    return checkpoints


def test_everything_comes_back_and_training_goes_on_to_the_bit(tmp_path):
    checkpoints = saved(tmp_path)
    resumed, expected = Trained(0), Trained(3)
    state = checkpoints.load_newest(*resumed.parts)
    assert (state["step"], state["note"]) == (3, 3)
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(resumed.tensors(), expected.tensors(), strict=True))
        resumed.step()
        expected.step()


def test_without_a_checkpoint_nothing_is_loaded(tmp_path):
    assert Checkpoints(tmp_path / "none", ALONE, 1).load_newest(*Trained(0).parts) is None


def test_only_the_newest_are_kept(tmp_path):
    checkpoints = saved(tmp_path, steps=(1, 2, 3, 4), keep=2)
    assert [path.name for path in checkpoints.found()] == ["step-00000004", "step-00000003"]


def damage_shard(folder):
    (shard,) = folder.glob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)


def truncate_shard(folder):
    (shard,) = folder.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-100])


HARM = {
    "damaged": damage_shard,
    r"\.safetensors is damaged": truncate_shard,
    "missing": lambda folder: next(folder.glob("*.safetensors")).unlink(),
    "has no state.json": lambda folder: (folder / "state.json").unlink(),
    "state.json is damaged": lambda folder: (folder / "state.json").write_text('{"format":'),
    "was not written by this version": lambda folder: (folder / "state.json").write_text("{}"),
}


@pytest.mark.parametrize("message", HARM)
def test_a_checkpoint_that_is_not_whole_is_passed_over_for_the_one_before_it(tmp_path, capsys, message):
    checkpoints = saved(tmp_path, steps=(2, 3))
    HARM[message](checkpoints.found()[0])
    trained = Trained(0)
    assert checkpoints.load_newest(*trained.parts)["step"] == 2
    assert "skipped a checkpoint" in (text := capsys.readouterr().err)
    assert any(part in text for part in ("damaged", "missing", "has no", "version"))
    expected = Trained(2)
    assert all(torch.equal(a, b) for a, b in zip(trained.tensors(), expected.tensors(), strict=True))


def test_where_none_is_whole_the_run_does_not_start_anew_without_a_word(tmp_path):
    checkpoints = saved(tmp_path, steps=(2,))
    damage_shard(checkpoints.found()[0])
    with pytest.raises(CheckpointError, match=r"none of the 1 checkpoints .* can be used.*Move them away"):
        checkpoints.load_newest(*Trained(0).parts)


def test_a_checkpoint_of_another_model_is_refused_and_leaves_the_model_alone(tmp_path):
    checkpoints = saved(tmp_path)
    other = Trained(0, width=6)
    before = [tensor.clone() for tensor in other.tensors()]
    with pytest.raises(CheckpointError, match=r"another model or optimiser: \d+ entries have another shape"):
        checkpoints.load_newest(*other.parts)
    assert all(torch.equal(a, b) for a, b in zip(other.tensors(), before, strict=False))


def test_what_an_interrupted_save_left_is_no_checkpoint_and_is_cleared_away(tmp_path):
    checkpoints = saved(tmp_path, steps=(2,))
    shutil.copytree(checkpoints.found()[0], tmp_path / ".step-00000003.tmp")
    assert [path.name for path in checkpoints.found()] == ["step-00000002"]
    checkpoints.save(3, *Trained(3).parts, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_a_full_disk_leaves_the_older_checkpoints_as_they_were(tmp_path):
    """The system refuses to let files grow, as it does when the disk is full."""
    checkpoints = saved(tmp_path, steps=(2,))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="could not be written"):
            checkpoints.save(3, *Trained(3).parts, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]
    assert checkpoints.load_newest(*Trained(0).parts)["step"] == 2


def test_weights_are_read_whole_and_the_average_too(tmp_path):
    folder = saved(tmp_path).found()[0]
    trained = Trained(3)
    weights, average = read_weights(folder), read_weights(folder, average=True)
    assert weights.keys() == trained.model.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in trained.model.state_dict().items())
    assert all(torch.equal(average[name], tensor) for name, tensor in trained.average.values.items())


def test_a_checkpoint_holds_no_pickle(tmp_path):
    """Every file is JSON or safetensors, as independent readers find."""
    folder = saved(tmp_path).found()[0]
    for path in folder.iterdir():
        if path.suffix == ".json":
            assert json.loads(path.read_text()) == read_state(folder)
        else:
            assert safetensors.torch.load_file(path)
