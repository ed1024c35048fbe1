"""A run ends the same however it was interrupted, and never goes on with what is broken."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toy_training
from toy_training import RECIPE, harm, make_loop, make_model

from internimage.backbone import Block
from internimage.tasks.training.checkpoints import read_weights
from internimage.tasks.training.distributed import Processes
from internimage.tasks.training.feed import TrainingError
from internimage.tasks.training.order import Order

ALONE = Processes(torch.device("cpu"))
QUICK = replace(RECIPE, epochs=2)
STEPS = 6


def log(run):
    return [json.loads(line) for line in (Path(run) / "log.jsonl").read_text().splitlines()]


def losses(run):
    return [row["loss"] for row in log(run) if "loss" in row]


def weights(run, average=False):
    return read_weights(Path(run) / "checkpoints" / f"step-{STEPS:08d}", average=average)


def assert_equal_runs(first, second):
    assert losses(first) == losses(second)
    assert [row for row in log(first) if "accuracy" in row] == [row for row in log(second) if "accuracy" in row]
    for average in (False, True):
        expected, found = weights(first, average), weights(second, average)
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A run that nothing disturbed, with stochastic depth."""
    path = tmp_path_factory.mktemp("whole") / "run"
    make_loop(QUICK, path, ALONE, drop_path_rate=0.3).train()
    return path


def program(run, *options):
    command = [sys.executable, toy_training.__file__, run, "--drop-path", "0.3", "--epochs", "2", *options]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_a_killed_run_ends_as_if_nothing_had_happened(whole_run, tmp_path):
    run = str(tmp_path / "run")
    killed = program(run, "--harm-step", "4", "--save-steps", "2")
    assert killed.returncode == -signal.SIGKILL
    assert losses(run) == losses(whole_run)[:4]
    again = program(run, "--save-steps", "2")
    assert again.returncode == 0, again.stderr
    assert f"resuming at step 4 of {STEPS}" in again.stderr
    assert_equal_runs(run, whole_run)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_run_that_is_asked_to_stop_saves_first(whole_run, tmp_path, name):
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        make_loop(QUICK, run, ALONE, on_loss=harm(1, name), drop_path_rate=0.3).train()
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000002"]  # in the middle of an epoch
    make_loop(QUICK, run, ALONE, drop_path_rate=0.3).train()
    assert_equal_runs(run, whole_run)


def test_the_signals_are_as_before_when_training_is_over(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    make_loop(replace(QUICK, epochs=1, warmup_epochs=0), tmp_path / "run", ALONE).train()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_run_may_be_counted_in_steps(tmp_path):
    recipe = replace(QUICK, epochs=None, steps=5, warmup_epochs=0, warmup_steps=2, eval_steps=2)
    progress = make_loop(recipe, tmp_path / "run", ALONE).train()
    assert progress.step == 5
    evaluated = [(row["step"], row["epoch"]) for row in log(tmp_path / "run") if "accuracy" in row]
    assert evaluated == [(2, 2 / 3), (4, 4 / 3), (5, 5 / 3)]  # 3 steps an epoch; always at the end


def test_a_finished_run_takes_no_further_step(whole_run):
    before = (whole_run / "log.jsonl").read_text()
    assert make_loop(QUICK, whole_run, ALONE).train().step == STEPS
    assert (whole_run / "log.jsonl").read_text() == before


def test_an_epoch_learns(whole_run):
    assert sum(losses(whole_run)[-3:]) < sum(losses(whole_run)[:3])


def test_a_run_with_another_recipe_is_not_mixed_in(whole_run):
    with pytest.raises(ValueError, match=r"another recipe \(--seed: 0 before, 1 now\)"):
        make_loop(replace(QUICK, seed=1), whole_run, ALONE)


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="not empty and holds no run"):
        make_loop(QUICK, tmp_path, ALONE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_step_whose_loss_is_nan_leaves_no_trace(tmp_path):
    loop = make_loop(QUICK, tmp_path / "run", ALONE, on_loss=harm(2, "nan"))
    before = {}

    def at_step(loss):
        if loop.progress.step in (2, 3):
            before[loop.progress.step] = {
                n: t.clone() for n, t in loop.inner.state_dict().items() if "tracked" not in n
            }
        return loss

    inner = loop.task.on_loss
    loop.task.on_loss = lambda loss: inner(at_step(loss))
    progress = loop.train()
    assert (progress.step, progress.bad_steps) == (STEPS, 1)
    statistics = [name for name in before[2] if "running" in name]
    for name, tensor in before[2].items():
        if name not in statistics:  # the forward pass of step 3 itself has moved those
            assert torch.equal(before[3][name], tensor)
    assert all(t.isfinite().all() for t in loop.inner.state_dict().values())


def test_a_loss_that_stays_nan_stops_the_run(tmp_path):
    loop = make_loop(replace(QUICK, max_bad_steps=3), tmp_path / "run", ALONE, on_loss=lambda loss: loss * torch.nan)
    with pytest.raises(TrainingError, match=r"in 3 steps in a row, the last of them step 2; .*--learning-rate"):
        loop.train()


def test_corrupt_images_are_reported_and_too_many_stop_the_run(tmp_path, capsys):
    bad = Order([toy_training.IMAGES], 8).part(1, 0)[2][0]
    loop = make_loop(QUICK, tmp_path / "run", ALONE, hook=lambda index: ("bad.jpg",) if index == bad else ())
    loop.images = 100  # one in a hundred may be bad
    progress = loop.train()
    assert progress.corrupt == ["bad.jpg"]
    assert capsys.readouterr().err.count("bad.jpg") == 1
    loop = make_loop(QUICK, tmp_path / "other", ALONE, hook=lambda index: (f"bad{index}.jpg",))
    with pytest.raises(TrainingError, match=r"8 of 26 images can't be read, more than 1 %: bad\d+.jpg; bad"):
        loop.train()


def test_a_checkpoint_that_can_not_be_written_does_not_end_training_but_the_last_one_does(tmp_path, capsys):
    loop = make_loop(QUICK, tmp_path / "run", ALONE)
    save, calls = loop.checkpoints.save, []

    def fail(step, *arguments):
        calls.append(step)
        raise OSError(28, "No space left on device")

    loop.checkpoints.save = fail
    with pytest.raises(OSError, match="No space left"):
        loop.train()
    assert calls == [3, STEPS]
    assert "no checkpoint at step 3, going on without" in capsys.readouterr().err
    loop.checkpoints.save = save


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_as_float32_does(whole_run, tmp_path, precision):
    run = tmp_path / "run"
    loop = make_loop(replace(QUICK, precision=precision), run, ALONE, drop_path_rate=0.3)
    loop.train()
    assert losses(run) == pytest.approx(losses(whole_run), abs=0.05)
    if precision == "float16":
        assert loop.scaler.get_scale() > 1


def test_accumulated_parts_add_up_to_the_whole_batch(tmp_path):
    recipe = replace(QUICK, epochs=1, warmup_epochs=0, sync_batch_norm=False)
    runs = []
    for accumulation in (1, 2):
        model = make_model(recipe)
        model.head.norm = torch.nn.Identity()  # its statistics are those of a part
        run = tmp_path / f"run{accumulation}"
        make_loop(replace(recipe, accumulation=accumulation), run, ALONE, model=model).train()
        runs.append(losses(tmp_path / f"run{accumulation}"))
    assert runs[0] == pytest.approx(runs[1], rel=1e-5)


def test_compiled_blocks_learn_the_same(tmp_path, monkeypatch):
    recipe = replace(QUICK, epochs=1, warmup_epochs=0)
    make_loop(recipe, tmp_path / "eager", ALONE).train()
    torch._dynamo.reset()
    compiled = []
    compile_block = Block.compile

    def quickly(block):  # the graphs, without waiting for code
        compiled.append(block)
        compile_block(block, backend="aot_eager", fullgraph=True)

    monkeypatch.setattr(Block, "compile", quickly)
    make_loop(replace(recipe, compile="blocks"), tmp_path / "compiled", ALONE).train()
    assert len(compiled) == 5
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "eager"), rel=1e-5)


def test_the_log_has_what_one_watches(whole_run):
    row = log(whole_run)[0]
    assert row.keys() == {
        "step", "epoch", "loss", "grad_norm", "lr", "images_per_second", "data_wait", "memory_mib"
    }  # fmt: skip
    assert 0 <= row["data_wait"] <= 1
    assert row["memory_mib"] > 50
    environment = json.loads((whole_run / "environment.json").read_text())[0]
    assert environment["torch"] == torch.__version__
    assert re.fullmatch(r"[0-9a-f]{40}\+?|None", str(environment["git_revision"]))
