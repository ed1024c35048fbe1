"""`internimage bench` measures what was asked for, and its table of layers accounts for every one."""

import argparse
import json
import re
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from internimage import InternImage, create_model
from internimage.released import get
from internimage.tasks import bench, cli, layer_times, run_way

SMALL = ["--model", "internimage_atto", "--size", "64", "96", "--threads", "1", "--repeats", "2"]


def small_model() -> InternImage:
    return InternImage(channels=16, depths=(1, 1, 1, 1), groups=(1, 2, 4, 8), num_classes=10).eval()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.02)
        return self.linear(x) @ x.new_ones(4, 4)


class Sleeper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.1)
        return self.blocks(x)


@pytest.fixture(autouse=True)
def same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_layers_time_and_flops_are_its_own() -> None:
    with torch.no_grad():
        rows = layer_times.profile(Sleeper(), torch.ones(3, 4), repeats=3)
    own, *others = rows
    assert (own.name, own.calls, own.flops) == ("(the model itself)", 1, 0)
    assert 0.1 <= own.seconds < 0.13
    found = {row.name: row for row in others}
    assert found["blocks.*"].calls == found["blocks.*.linear"].calls == 2
    assert found["blocks.*"].flops == found["blocks.*.linear"].flops == 2 * 2 * 3 * 4 * 4
    assert 0.04 <= found["blocks.*"].seconds < 0.07
    assert found["blocks.*.linear"].seconds < 0.01


@pytest.mark.parametrize("prepared", [False, True])
def test_the_table_accounts_for_the_whole_time(prepared: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--profile", *SMALL, *(["--prepared"] if prepared else [])]) == 0
    out = capsys.readouterr().out
    assert ("internimage_atto prepared, images 1 x 3 x 64 x 96, cpu, 1 threads" in out) is prepared
    _, figures, header, *rows, together = out.splitlines()
    assert re.fullmatch(r"[\d.]+ ms a batch, [\d.]+ images a second", figures)
    assert header.split() == ["layer", "calls", "ms", "share", "GFLOP", "GFLOP/s"]
    assert any(row.startswith("stages.2.blocks.*.dcn") for row in rows)
    assert together.startswith("together")
    assert float(re.search(r"([\d.]+)%", together)[1]) == 100.0
    shares = [float(re.search(r"([\d.]+)%", row)[1]) for row in rows]
    assert abs(sum(shares) - 100) < 0.06 * len(rows)


def test_every_way_has_a_row_and_the_file_holds_the_same_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "ways.json"
    argv = ["bench", *SMALL, "--batch", "3", "--ways", "eager", "prepared", "eager", "sideways", "--json", str(file)]
    assert cli.main(argv) == 1
    first, counts, _, header, *rows = capsys.readouterr().out.splitlines()
    assert first == "internimage_atto, images 3 x 3 x 64 x 96, cpu, 1 threads"
    assert re.fullmatch(r"1\.72 M parameters, 0\.07 GFLOP \(0\.03 GMAC\) an image, (native|PyTorch) operators", counts)
    assert header.split("  ")[0] == "forward"
    stored = json.loads(file.read_text())
    assert stored["images"] == [3, 3, 64, 96]
    assert stored["threads"] == 1
    assert [row.split()[0] for row in rows] == list(stored["ways"]) == ["eager", "prepared", "sideways"]
    assert rows[2].split("not run: ")[1] == stored["ways"]["sideways"]["error"]
    assert "there is no such way; there are eager, compiled, packaged" in rows[2]
    for row in rows[:2]:
        name, *numbers = row.split()
        figures = stored["ways"][name]
        assert figures["images_per_second"] == pytest.approx(3000 / figures["median_ms"])
        times = sorted(figures["times_ms"])
        assert len(times) == 2
        assert figures["median_ms"] == pytest.approx(sum(times) / 2)
        assert figures["p90_ms"] == pytest.approx(times[0] + 0.9 * (times[1] - times[0]))
        columns = ("median_ms", "p90_ms", "images_per_second", "setup_s")
        assert [float(number) for number in numbers[:4]] == pytest.approx([figures[c] for c in columns], abs=0.051)


def test_a_training_step_holds_the_gradients_and_a_package_takes_none(tmp_path: Path) -> None:
    file = tmp_path / "ways.json"
    argv = ["bench", *SMALL, "--batch", "2", "--train", "--ways", "packaged", "eager", "--json", str(file)]
    assert cli.main(argv) == 1
    stored = json.loads(file.read_text())
    assert stored["pass"] == "training step"
    assert stored["ways"]["packaged"] == {"error": "a packaged model can't be trained; eager and compiled ones can"}
    if sys.platform == "linux":
        assert stored["ways"]["eager"]["peak_growth_mib"] > 4 * stored["parameters"] / 2**20


def test_training_steps_do_their_work_and_leave_the_weights_where_they_were() -> None:
    model = small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step = run_way._training_step(model, "eager", torch.randn(2, 3, 64, 64))
    step()
    step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"head.norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}


def test_what_goes_wrong_in_a_process_comes_back_as_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    # One place is left for a batch norm of one image, which has no variance.
    job = run_way.Job("internimage_atto", "eager", True, (1, 3, 32, 32), "cpu", threads=1, repeats=1)
    found = bench._measure_in_process(job, debug=True)
    assert isinstance(found, str)
    assert re.fullmatch(r"Expected more than 1 value per channel when training.*", found)
    assert "Traceback" in capsys.readouterr().err  # with --debug


def test_a_process_that_dies_is_a_line_of_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # Python doesn't start
    assert cli.main(["bench", *SMALL]) == 1
    assert re.search(r"\neager +not run: its process died with exit status 1: ", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("options", "device", "ways"),
    [
        ([], "cpu", ["eager"]),
        (["--prepared"], "cpu", ["prepared"]),
        (["--ways", "all"], "cpu", list(run_way.WAYS)),
        (["--ways", "packaged", "all"], "cuda", ["packaged", "eager", "compiled"]),
        (["--ways", "all", "--train"], "cpu", ["eager", "compiled"]),
        (["--ways", "new", "eager", "new"], "cpu", ["new", "eager"]),
    ],
)
def test_the_ways_are_those_asked_for_once_each(options: list[str], device: str, ways: list[str]) -> None:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    assert bench._chosen_ways(parser.parse_args(options), torch.device(device)) == ways


@pytest.mark.parametrize(
    ("way", "model"), [("eager", small_model()), ("prepared", small_model()), ("packaged", nn.Conv2d(3, 4, 3).eval())]
)
def test_a_way_computes_what_the_model_does(way: str, model: nn.Module, tmp_path: Path) -> None:
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)
    torch.testing.assert_close(run_way._forward(model, way, images, str(tmp_path))(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("letter", "gmac"), [("t", 5), ("b", 16)])
def test_parameters_and_operations_are_those_of_the_paper(letter: str, gmac: int) -> None:
    parameters, flops = bench.count_operations(f"internimage_{letter}", 224, 224)
    assert parameters == get(f"internimage_{letter}.in1k_224").parameters
    assert round(flops / 2e9) == gmac


def test_operations_are_counted_as_on_real_tensors() -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        create_model("internimage_atto").eval()(torch.randn(1, 3, 64, 96))
    assert bench.count_operations("internimage_atto", 64, 96)[1] == counter.get_total_flops()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux")
def test_peak_growth_is_what_a_pass_allocates_and_no_more() -> None:
    device = torch.device("cpu")
    held = torch.ones(100 * 2**18)  # freed by another pass, or held throughout: neither is growth
    torch.ones(200 * 2**18)
    for mib in (64, 32):
        assert run_way.peak_growth_mib(lambda size=mib: torch.ones(size * 2**18), device) == pytest.approx(mib, abs=3)
    assert run_way.peak_growth_mib(lambda: None, device) == pytest.approx(0, abs=3)
    assert held.sum() == held.numel()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--size", "0"], "--size must be one or two numbers"),
        (["--prepared", "--ways", "eager"], "--prepared is short for --ways prepared"),
        (["--profile", "--train"], "--profile shows the layers of one model"),
        (["--model", "internimage_z"], "unknown model 'internimage_z'"),
        (["--model", "internimage_atto", "--size", "64", "--json", "nowhere/ways.json"], "No such file or directory"),
    ],
)
def test_wrong_arguments_are_named(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *argv]) == 1
    assert message in capsys.readouterr().err
