"""The CPU kernels' source, built for each instruction set and run under the sanitizers."""

import functools
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch.utils.cpp_extension

from internimage.ops import toolchain
from internimage.ops.build import SOURCES

SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-static-libasan")
# Of the order of summation, and of the rounding of the results.
TOLERANCES = {"float32": 1e-4, "float64": 1e-12, "float16": 2e-3, "bfloat16": 2e-2}


def run(compiler: list[str], flags: tuple[str, ...], emulator: tuple[str, ...] = ()) -> list[tuple[str, list[float]]]:
    """Build the program and run it: for each of its random cases the dtype and four sums."""
    includes = [f"-I{path}" for path in (SOURCES, *torch.utils.cpp_extension.include_paths())]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "kernels")
        source = Path(__file__).with_name("cpu_sanitized.cpp")
        # Without optimisation GCC takes a quarter of the time.
        command = [
            *compiler,
            "-std=c++20",
            "-O0",
            "-Wall",
            "-Wno-psabi",
            *flags,
            *includes,
            str(source),
            "-o",
            str(program),
        ]
        built = subprocess.run(command, capture_output=True, text=True)
        if "cannot find" in built.stderr or "unrecognized" in built.stderr:
            pytest.skip(
                f"the compiler has no sanitizers: {built.stderr.splitlines()[0]}; install its sanitizer runtime"
            )
        assert built.returncode == 0, built.stderr
        assert "warning: " not in built.stderr.replace("c10", "")
        result = subprocess.run([*emulator, str(program)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    return [(dtype, [float(value) for value in values]) for dtype, *values in rows]


@functools.cache
def baseline() -> list[tuple[str, list[float]]]:
    try:
        compiler = shlex.split(toolchain.find_compiler().command)
    except toolchain.BuildError as missing:
        pytest.skip(str(missing))
    return run(compiler, SANITIZERS)


def assert_equal(found: list[tuple[str, list[float]]], expected: list[tuple[str, list[float]]]) -> None:
    assert len(found) == len(expected) == 240
    for (dtype, values), (expected_dtype, expected_values) in zip(found, expected, strict=True):
        assert dtype == expected_dtype
        assert np.isfinite(values).all()
        np.testing.assert_allclose(values, expected_values, rtol=TOLERANCES[dtype])


@pytest.mark.parametrize("name", toolchain.INSTRUCTION_SETS)
def test_each_instruction_set_gives_the_same_and_touches_only_its_own_memory(name: str) -> None:
    if name not in toolchain.instruction_sets():
        pytest.skip(f"this CPU does not run {name}")
    expected = baseline()
    flags = (*SANITIZERS, *toolchain.cpu_flags(name))
    assert_equal(run(shlex.split(toolchain.find_compiler().command), flags), expected)


def test_neon_gives_the_same_in_an_emulator() -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64-static")
    if compiler is None or emulator is None:
        pytest.skip("needs a cross-compiler and an emulator: apt install g++-aarch64-linux-gnu qemu-user-static")
    assert_equal(run([compiler], ("-static",), (emulator,)), baseline())
