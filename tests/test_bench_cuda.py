"""`bench/cuda.py` on the CPU: what it checks, its arithmetic, and what it says without a device."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from internimage.ops import reference
from internimage.ops.geometry import Geometry

SCRIPT = Path(__file__).parent.parent / "bench" / "cuda.py"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_cuda", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclass looks for itself
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_it_says_so_and_how_to_learn_more() -> None:
    result = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("no CUDA device: PyTorch")
    assert "internimage doctor" in result.stderr


def test_right_kernels_have_no_fault(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "CASES", dict(list(bench.CASES.items())[::4]))  # the operator has tests of its own
    assert bench.check_all(CPU) == 0
    calls = len(bench.CASES) * len(bench.TOLERANCES)
    assert capsys.readouterr().out == f"correctness: {calls} of {calls} calls right\n"


def test_a_wrong_kernel_is_found(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    right = reference.dcnv3

    def wrong(input: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        return right(input, offset, mask, geometry) + (1e-2 if input.dtype == torch.float32 else 0)

    monkeypatch.setattr(reference, "dcnv3", wrong)
    inputs = bench.make_inputs(CPU, torch.float32, softmax=True)
    assert [fault.split(":")[0] for fault in bench.faults(inputs, "torch")] == [
        "output, deterministic=False",
        "output, deterministic=True",
    ]


def test_the_floor_counts_each_tensor_once(bench: ModuleType) -> None:
    inputs = bench.make_inputs(CPU, torch.float16, n=1, size=(2, 3), groups=2, group_channels=4)
    # 8 channels of input, 36 offsets, 18 masks, 8 channels of output; backward reads these and writes three gradients.
    assert bench.floor_bytes(inputs, backward=False) == 2 * 6 * (8 + 36 + 18 + 8)
    assert bench.floor_bytes(inputs, backward=True) == 2 * 6 * (3 * (8 + 36 + 18) + 2 * 8)


def test_the_table_has_a_line_for_each_measurement(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)  # what it costs is not the matter here
    copy = bench.copy_bandwidth(CPU, elements=2**20)
    heading, rule, *lines = bench.measure(CPU, {"small": (1, 4, 5, 2)}, copy)
    assert [line.split("|")[2:4] for line in lines] == [
        [f" {dtype} ", f" {direction} "]
        for dtype in ("float32", "float16", "bfloat16")
        for direction in ("forward", "forward and backward")
    ]
    assert {line.count("|") for line in (heading, rule, *lines)} == {9}
