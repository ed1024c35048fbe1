"""The CPU kernels' memory accesses, under the sanitizers."""

import shlex
import subprocess
from pathlib import Path

import pytest
import torch.utils.cpp_extension

from internimage.ops import toolchain
from internimage.ops.build import SOURCES


@pytest.mark.parametrize("program_source", ["cpu_sanitized.cpp", "fused_sanitized.cpp"])
def test_the_kernels_touch_only_their_own_memory(program_source: str, tmp_path: Path) -> None:
    try:
        compiler = shlex.split(toolchain.find_compiler().command)
    except toolchain.BuildError as missing:
        pytest.skip(str(missing))
    includes = [f"-I{path}" for path in (SOURCES, *torch.utils.cpp_extension.include_paths())]
    flags = ["-std=c++20", "-O1", "-g", "-Wall", "-Wno-psabi", *toolchain.cpu_flags(toolchain.instruction_set())]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-static-libasan"]
    program = tmp_path / "kernels"
    source = Path(__file__).with_name(program_source)
    built = subprocess.run(
        [*compiler, *flags, *sanitizers, *includes, str(source), "-o", str(program)], capture_output=True, text=True
    )
    if "cannot find" in built.stderr or "unrecognized" in built.stderr:
        pytest.skip(f"the compiler has no sanitizers: {built.stderr.splitlines()[0]}; install its sanitizer runtime")
    assert built.returncode == 0, built.stderr
    assert "warning: " not in built.stderr.replace("c10", "")
    result = subprocess.run([str(program)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "clean\n"
