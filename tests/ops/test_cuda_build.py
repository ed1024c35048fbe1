"""The whole CUDA build as a user's first call makes it, on a machine without a device: builds, loads, registers."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from internimage.ops import build, toolchain

# Runs in a process of its own: the library is for machines with devices, and this one pretends to be one.
USE = """
import sys, torch
from torch._subclasses.fake_tensor import FakeTensorMode
from internimage.ops import build, dcnv3
from internimage.ops.schema import SCHEMA_VERSION

OPTIONS = (3, 3), (1, 1), (1, 1), (1, 1), 2, 1.0, False, True
operators = torch.ops.internimage


class Layer(torch.nn.Module):
    def forward(self, input, offset, mask):
        return dcnv3(input, offset, mask, groups=2, softmax=True)


def backward(input, offset, mask):
    return operators.dcnv3_backward(input, input, offset, mask, *OPTIONS, False, SCHEMA_VERSION)


build.load(sys.argv[1])
for name in ("dcnv3", "dcnv3_backward"):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"internimage::{name}", "CUDA")
build._answers["cuda", "auto"] = True

with FakeTensorMode():
    tensors = [torch.empty(2, 6, 7, channels, device="cuda") for channels in (32, 36, 18)]
    compiled = torch.compile(Layer(), backend="aot_eager", fullgraph=True)(*tensors)
    assert compiled.device.type == "cuda" and compiled.shape == (2, 6, 7, 32)
    grads = torch.compile(backward, backend="aot_eager", fullgraph=True)(*tensors)
    assert [(grad.device.type, grad.shape) for grad in grads] == [("cuda", tensor.shape) for tensor in tensors]
    program = torch.export.export(Layer(), tuple(tensors))
assert [node.target for node in program.graph.nodes].count(operators.dcnv3.default) == 1

print("REAL CALLS")
tensors = [torch.empty(2, 6, 7, channels) for channels in (32, 36, 18)]
for call in (
    lambda: torch.empty(1, device="cuda"),
    lambda: operators.dcnv3.default.redispatch(
        torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA), *tensors, *OPTIONS, SCHEMA_VERSION
    ),
):
    try:
        call()
    except RuntimeError as error:
        print(str(error).splitlines()[0])
"""


@pytest.fixture(scope="module")
def library() -> Path:
    if torch.version.cuda is None:
        pytest.skip("this PyTorch is built without CUDA: pip install torch, the default build")
    try:
        toolchain.find_cuda_toolkit()
    except toolchain.BuildError as error:
        pytest.skip(str(error))
    return build.build_library(cuda=True, architectures=("9.0",))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device: tests marked gpu run on it")
def test_without_a_device_the_library_loads_compiles_exports_and_a_call_names_the_driver(library: Path) -> None:
    command = [sys.executable, "-P", "-c", USE, str(library)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    torchs_own, kernels = result.stdout.split("REAL CALLS\n")[1].splitlines()
    assert "Found no NVIDIA driver" in torchs_own
    assert "CUDA driver version is insufficient" in kernels or "no CUDA-capable device" in kernels


def test_the_library_holds_the_named_architecture_alone(library: Path) -> None:
    held = library.read_bytes()
    names = [name for name in toolchain.CUDA_ARCHITECTURES if f"sm_{name.replace('.', '')}".encode() in held]
    assert names == ["9.0"]
