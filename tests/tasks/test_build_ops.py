"""`internimage build-ops`, with sources that compile in a moment."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from internimage.ops import build, toolchain
from internimage.tasks import cli

CPU = """
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
using torch::stable::Tensor;
Tensor same(Tensor input, Tensor, Tensor, std::vector<int64_t>, std::vector<int64_t>, std::vector<int64_t>,
            std::vector<int64_t>, int64_t, double, bool, bool, int64_t) { return torch::stable::clone(input); }
STABLE_TORCH_LIBRARY_IMPL(internimage, CPU, m) { m.impl("dcnv3", TORCH_BOX(&same)); }
"""
USE = """
import sys, torch
torch.ops.load_library(sys.argv[1])
x = torch.ones(1, 2, 2, 2)
arguments = (3, 3), (1, 1), (1, 1), (1, 1), 1, 1.0, False, False, 1
assert torch.equal(torch.ops.internimage.dcnv3(x, x, x, *arguments), x)
assert "internimage" not in sys.modules
"""


@pytest.fixture(autouse=True)
def small_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "same_cpu.cpp").write_text(CPU)
    (sources / "same_cuda.cpp").write_text('extern "C" void launch();\nvoid use() { launch(); }\n')
    (sources / "same.cu").write_text(
        '__global__ void nothing() {}\nextern "C" void launch() { nothing<<<1, 1>>>(); }\n'
    )
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setenv("INTERNIMAGE_CACHE", str(tmp_path / "cache"))
    return sources


def has_compiler() -> bool:
    try:
        toolchain.find_compiler()
    except toolchain.BuildError:
        return False
    return True


@pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64 machine")
def test_the_cpu_may_be_another(small_sources: Path, tmp_path: Path) -> None:
    source = small_sources / "same_cpu.cpp"
    source.write_text('#ifdef __AVX2__\n#error "not the baseline"\n#endif\n' + CPU)
    assert cli.main(["build-ops", "--cpu", "baseline", "--output", str(tmp_path / "libinternimage.so")]) == 0
    source.write_text('#ifndef __AVX2__\n#error "not AVX2"\n#endif\n' + CPU)
    assert cli.main(["build-ops", "--cpu", "avx2", "--output", str(tmp_path / "libinternimage.so")]) == 0


@pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")
def test_a_library_for_the_cpu_works_without_this_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    library = tmp_path / "new folder" / "libinternimage.so"
    assert cli.main(["build-ops", "--output", str(library)]) == 0
    assert f"{library}: " in capsys.readouterr().out
    result = subprocess.run([sys.executable, "-P", "-c", USE, str(library)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_library_for_all_devices_holds_their_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.version.cuda is None:
        pytest.skip("this PyTorch is built without CUDA")
    try:
        known = toolchain.find_cuda_toolkit().architectures()
    except toolchain.BuildError as error:
        pytest.skip(str(error))
    library = tmp_path / "libinternimage.so"
    assert cli.main(["build-ops", "--arch", "all", "--output", str(library)]) == 0
    held = library.read_bytes()
    assert all(f"sm_{name.replace('.', '')}".encode() in held for name in known)
    assert f"CUDA {known[-1]}+PTX" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", ["hopper", "9", "8.0;9.0"])
def test_a_wrong_architecture_is_named(wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["build-ops", "--arch", "8.0", wrong, "--output", str(tmp_path / "library.so")]) == 1
    assert f"--arch: got {wrong}, expected numbers such as 8.0" in capsys.readouterr().err


def test_what_a_build_lacks_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "/nonexistent")
    assert cli.main(["build-ops", "--output", str(tmp_path / "library.so")]) == 1
    assert "CXX names the compiler '/nonexistent'" in capsys.readouterr().err
    assert not (tmp_path / "library.so").exists()
