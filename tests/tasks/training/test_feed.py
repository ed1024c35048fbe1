"""Batches come in their order from any number of workers, and survive a worker that dies."""

import os
import signal

import pytest
import torch
import toy_training
from toy_training import Images, collate

from internimage.tasks.training.distributed import Processes
from internimage.tasks.training.feed import Feed, TrainingError, to_device
from internimage.tasks.training.order import Order

ALONE = Processes(torch.device("cpu"))


def feed(workers, hook=lambda index: (), steps=range(5)):
    return Feed(Images(hook), Order([toy_training.IMAGES], 8, parts=2), ALONE, steps, collate=collate, workers=workers)


def batches(source, steps=5):
    return [torch.cat([part["image"] for part in source.next_step()]) for _ in range(steps)]


def test_the_number_of_workers_changes_nothing():
    expected = batches(feed(0))
    for workers in (1, 2):
        assert all(torch.equal(a, b) for a, b in zip(batches(feed(workers)), expected, strict=True))


class DiesOnce:
    """Kills the worker that loads a certain image, the first `times` times."""

    def __init__(self, folder, index, times):
        self.folder, self.index, self.times = folder, index, times

    def __call__(self, index):
        if index != self.index or len(list(self.folder.iterdir())) >= self.times:
            return
        (self.folder / str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_changes_nothing(tmp_path, capsys):
    dying = Order([toy_training.IMAGES], 8).part(2, 0)[3][0]
    found = batches(feed(1, DiesOnce(tmp_path, dying, times=1)))
    assert all(torch.equal(a, b) for a, b in zip(found, batches(feed(0)), strict=True))
    assert "starting all anew at step" in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 1


def test_workers_that_die_again_and_again_stop_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("internimage.tasks.training.feed._RESTARTS", 1)  # torch takes 5 s to notice each time
    source = feed(1, DiesOnce(tmp_path, Order([toy_training.IMAGES], 8).part(0, 0)[0][0], times=100))
    with pytest.raises(TrainingError, match=r"died 2 times, the last time at step 0; if memory is short"):
        source.next_step()


def test_an_error_in_a_worker_is_no_dead_worker():
    def hook(index):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        feed(1, hook).next_step()


def test_tensors_in_lists_and_dicts_are_moved_to_the_device_and_what_is_no_tensor_stays():
    x = torch.zeros(2)
    batch = {"image": [x, x], "target": [{"boxes": x, "name": "a"}], "labels": x, "corrupt": ("b.png",)}
    moved = to_device(batch, torch.device("meta"))
    tensors = [*moved["image"], moved["target"][0]["boxes"], moved["labels"]]
    assert all(tensor.is_meta for tensor in tensors)
    assert moved["target"][0]["name"] == "a"
    assert moved["corrupt"] == ("b.png",)
    assert not batch["image"][0].is_meta
