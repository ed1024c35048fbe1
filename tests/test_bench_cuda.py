"""`bench/cuda.py` on the CPU: what it checks, its arithmetic, and what it says without a device."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from internimage.ops import ms_deform_attn_reference, nms_reference, reference, roi_align_reference

SCRIPT = Path(__file__).parent.parent / "bench" / "cuda.py"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_cuda", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
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
    few = {name: (make, dict(list(cases.items())[::4])) for name, (make, cases) in bench.OPERATORS.items()}
    monkeypatch.setattr(bench, "OPERATORS", few)  # the operators have tests of their own
    assert bench.check_all(CPU) == 0
    calls = sum(len(cases) for _, cases in few.values()) * len(bench.TOLERANCES)
    assert capsys.readouterr().out == f"correctness: {calls} of {calls} calls right\n"


DEFINITIONS = {
    "DCNv3": (reference, "dcnv3"),
    "attention": (ms_deform_attn_reference, "ms_deform_attn"),
    "RoIAlign": (roi_align_reference, "roi_align"),
    "NMS": (nms_reference, "nms"),
}


@pytest.mark.parametrize("operator", DEFINITIONS)
def test_a_wrong_kernel_is_found(bench: ModuleType, monkeypatch: pytest.MonkeyPatch, operator: str) -> None:
    module, name = DEFINITIONS[operator]
    right = getattr(module, name)
    called = 0

    def wrong(*arguments: Any) -> torch.Tensor:
        nonlocal called
        called += 1
        output = right(*arguments)
        return output if called == 1 else ~output if output.dtype == torch.bool else output + 1e-2

    monkeypatch.setattr(module, name, wrong)  # right the first time, as the definition
    call = bench.OPERATORS[operator][0](CPU, torch.float32)
    assert [fault.split(":")[0] for fault in bench.faults(call, torch.float32, "torch")] == [
        "output, deterministic=False",
        "output, deterministic=True",
    ]


def test_the_floor_counts_each_tensor_once(bench: ModuleType) -> None:
    call = bench.dcnv3_call(CPU, torch.float16, n=1, size=(2, 3), groups=2, group_channels=4)
    # 8 channels of input, 36 offsets, 18 masks, 8 channels of output; backward reads these and writes three gradients.
    assert bench.floor_bytes(call, backward=False) == 2 * 6 * (8 + 36 + 18 + 8)
    assert bench.floor_bytes(call, backward=True) == 2 * 6 * (3 * (8 + 36 + 18) + 2 * 8)
    call = bench.roi_align_call(CPU, torch.float16, n=1, channels=3, size=(4, 5), rois=7, output_size=(2, 2))
    # 60 elements of input, 84 of output; RoIs are float32, and get no gradient.
    assert bench.floor_bytes(call, backward=False) == 2 * 60 + 4 * 35 + 2 * 84
    assert bench.floor_bytes(call, backward=True) == 2 * 3 * 60 + 4 * 2 * 35 + 2 * 2 * 84


def test_the_table_has_a_line_for_each_measurement(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)  # what it costs is not the matter here
    copy = bench.copy_bandwidth(CPU, elements=2**20)
    shapes = {"learns": (bench.roi_align_call, {"channels": 2}), "doesn't": (bench.nms_call, {"count": 9})}
    heading, rule, *lines = bench.measure(CPU, shapes, copy)
    assert [[cell.strip() for cell in line.split("|")[1:4]] for line in lines] == [
        [name, dtype, direction]
        for name, directions in (("learns", ("forward", "forward and backward")), ("doesn't", ("forward",)))
        for dtype in ("float32", "float16", "bfloat16")
        for direction in directions
    ]
    assert {line.count("|") for line in (heading, rule, *lines)} == {9}
