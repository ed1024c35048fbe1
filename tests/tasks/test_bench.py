"""`internimage bench` times the model, and its table accounts for every layer."""

import re
import time

import pytest
import torch
from torch import Tensor, nn

from internimage.tasks import bench, cli

SMALL = ["--model", "internimage_atto", "--size", "64", "96", "--threads", "1", "--repeats", "2"]


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
        rows = bench.profile(Sleeper(), torch.ones(3, 4), repeats=3)
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


@pytest.mark.parametrize(
    ("argv", "message"),
    [(["--batch", "0"], "--batch must be at least 1, got 0"), (["--size", "0"], "--size must be one or two numbers")],
)
def test_wrong_arguments_are_named(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *argv]) == 1
    assert message in capsys.readouterr().err
