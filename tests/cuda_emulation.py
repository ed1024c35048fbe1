"""Builds CUDA sources by a host compiler and runs their threads on a CPU, by `ops/cuda_emulation.h`."""

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from internimage.ops import toolchain

HERE = Path(__file__).parent / "ops"
SANITIZE = "INTERNIMAGE_TEST_SANITIZE"  # set for the run of a test file under the sanitizers
SANITIZERS = "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]  # as the launchers number them
ACCUMULATORS = {dtype: torch.promote_types(dtype, torch.float32) for dtype in DTYPES}
# Arithmetic is float32 for the halves: what they add is one rounding of the result, half a unit in the last place.
TOLERANCES = {  # relative, absolute
    torch.float32: (1e-5, 1e-5),
    torch.float16: (2**-11 + 1e-5, 1e-5),
    torch.bfloat16: (2**-8 + 1e-5, 1e-5),
    torch.float64: (1e-12, 1e-12),
}


def cuda_includes() -> list[Path]:
    """Folders that may hold CUDA's headers: toolkits, then the pip packages that PyTorch brings."""
    found = [root / "include" for root in toolchain._cuda_roots()]
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        found += sorted(Path(folder).glob("cu*/include"))
    return [folder for folder in found if all((folder / name).is_file() for name in ("cuda_fp16.h", "nv/target"))]


def build(source: Path, result: Path, *flags: str) -> None:
    """Builds a CUDA source for the emulation, by the host's compiler."""
    compiler = shutil.which("g++")
    includes = cuda_includes()
    if compiler is None:
        pytest.skip("needs g++ (apt-get install g++)")
    if not includes:
        pytest.skip("needs CUDA's headers: the CUDA toolkit, or pip install nvidia-cuda-runtime nvidia-cuda-cccl")
    # Variables that nothing was assigned to hold a pattern, huge numbers, so that reading one shows in the results.
    command = [compiler, "-std=c++17", "-O1", "-fPIC", "-ftrivial-auto-var-init=pattern", *flags]
    command += ["-include", str(HERE / "cuda_emulation.h"), f"-isystem{includes[0]}", "-x", "c++", str(source)]
    command += ["-o", str(result)]
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # the compiler runs bare
    built = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr


def load(source: Path, folder: Path, *flags: str) -> ctypes.CDLL:
    """The source, built for the emulation and loaded."""
    build(source, folder / "emulated.so", "-shared", *flags, *(SANITIZERS if os.environ.get(SANITIZE) else ()))
    library = ctypes.CDLL(str(folder / "emulated.so"))
    library.emulation_error.restype = ctypes.c_char_p
    library.emulation_launches.restype = ctypes.c_int64
    return library


def pointers(*tensors: Tensor) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


def assert_close(actual: Tensor, exact: Tensor) -> None:
    rtol, atol = TOLERANCES[actual.dtype]
    torch.testing.assert_close(actual.double(), exact, rtol=rtol, atol=atol)


def assert_all_close(actual: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    for result, exact in zip(actual, wanted, strict=True):
        assert_close(result, exact)


def assert_equal(actual: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    for one, other in zip(actual, wanted, strict=True):
        assert torch.equal(one, other)


def run_under_sanitizers(test_file: Path, chosen: str) -> None:
    """Runs the tests `chosen` of a file once more, with its kernels built for the sanitizers of g++."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ (apt-get install g++)")
    # libstdc++ as well: the sanitizer looks for its functions at start, before Python has loaded it.
    runtime = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    if not all(Path(path).is_file() for path in runtime):
        pytest.skip("needs the sanitizers' libraries of g++ (Fedora, RHEL: dnf install libasan)")
    environment = {
        **os.environ,
        SANITIZE: "1",
        "LD_PRELOAD": " ".join(runtime),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps memory to the end
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, str(test_file)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
