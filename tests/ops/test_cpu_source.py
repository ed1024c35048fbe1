"""The CPU kernels' source, built for each instruction set and run under the sanitizers."""

import functools
import platform
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

pytestmark = pytest.mark.once

SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-static-libasan")
# Of the order of summation, and of the rounding of the results.
TOLERANCES = {"float32": 1e-4, "float64": 1e-12, "float16": 2e-3, "bfloat16": 2e-2}


# What runs the kernels of one header on random cases, and the number of cases it reports.
PROGRAMS = {
    "cpu_sanitized.cpp": 240,
    "fused_sanitized.cpp": 200,
    "ms_deform_attn_sanitized.cpp": 240,
    "roi_align_sanitized.cpp": 240,
}
Results = list[tuple[str, list[float]]]  # for each case its dtype, and sums of absolute values

each_program = pytest.mark.parametrize("program", PROGRAMS)


def run(program: str, compiler: list[str], flags: tuple[str, ...], emulator: tuple[str, ...] = ()) -> Results:
    includes = [f"-I{path}" for path in (SOURCES, *torch.utils.cpp_extension.include_paths())]
    source = str(Path(__file__).with_name(program))
    with tempfile.TemporaryDirectory() as folder:
        built_program = str(Path(folder, "program"))
        # Without optimisation GCC takes a quarter of the time.
        options = ["-std=c++20", "-O0", "-Wall", "-Wno-psabi", *flags, *includes, "-o", built_program]
        built = subprocess.run([*compiler, source, *options], capture_output=True, text=True)
        if "cannot find" in built.stderr or "unrecognized" in built.stderr:
            pytest.skip(f"the compiler lacks a part: {built.stderr.splitlines()[0]}; install its sanitizer runtime")
        assert built.returncode == 0, built.stderr
        assert "warning: " not in built.stderr.replace("c10", "")
        result = subprocess.run([*emulator, built_program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    return [(dtype, [float(value) for value in values]) for dtype, *values in rows]


@functools.cache
def baseline(program: str) -> Results:
    try:
        compiler = shlex.split(toolchain.find_compiler().command)
    except toolchain.BuildError as missing:
        pytest.skip(str(missing))
    return run(program, compiler, SANITIZERS)


def assert_same(found: Results, program: str) -> None:
    expected = baseline(program)
    assert len(found) == len(expected) == PROGRAMS[program]
    for (dtype, values), (expected_dtype, expected_values) in zip(found, expected, strict=True):
        assert dtype == expected_dtype
        assert np.isfinite(values).all()
        np.testing.assert_allclose(values, expected_values, rtol=TOLERANCES[dtype])


@each_program
@pytest.mark.parametrize("name", toolchain.INSTRUCTION_SETS)
def test_each_instruction_set_gives_the_same_and_touches_only_its_own_memory(name: str, program: str) -> None:
    if name not in toolchain.instruction_sets():
        pytest.skip(f"needs a CPU that runs {name}; this one does not")
    baseline(program)  # skips without a compiler
    flags = (*SANITIZERS, *toolchain.cpu_flags(name))
    assert_same(run(program, shlex.split(toolchain.find_compiler().command), flags), program)


@each_program
def test_neon_gives_the_same_in_an_emulator(program: str) -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64-static")
    if compiler is None or emulator is None:
        pytest.skip("needs a cross-compiler and an emulator: apt install g++-aarch64-linux-gnu qemu-user-static")
    assert_same(run(program, [compiler], ("-static",), (emulator,)), program)


def test_a_library_for_another_cpu_knows_what_is_missing(tmp_path: Path) -> None:
    emulator = shutil.which("qemu-x86_64-static")
    if emulator is None or platform.machine() != "x86_64":
        pytest.skip("needs an x86-64 machine and an emulator: apt install qemu-user-static")
    source = tmp_path / "features.cpp"
    source.write_text(
        '#include <cstdio>\n#include "cpu_features.h"\n'
        "int main() { const char* missing = internimage::missing_instruction_set();"
        ' std::puts(missing ? missing : "-"); }'
    )
    compiler = shlex.split(toolchain.find_compiler().command)
    for flags, cpu, expected in [
        (["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"], "Haswell", "AVX-512"),
        (["-mavx2", "-mfma"], "Haswell", "-"),
        (["-mavx2", "-mfma"], "Nehalem", "AVX2"),
        ([], "Nehalem", "-"),
    ]:
        program = str(tmp_path / "features")
        subprocess.run([*compiler, "-static", *flags, f"-I{SOURCES}", str(source), "-o", program], check=True)
        result = subprocess.run([emulator, "-cpu", cpu, program], capture_output=True, text=True)
        assert result.stdout.strip() == expected, (flags, cpu, result.stderr)
