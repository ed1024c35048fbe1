import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from internimage.ops import build, toolchain
from internimage.ops.build import native_available
from internimage.ops.schema import SCHEMAS
from internimage.ops.toolchain import BuildError

posix = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in compilers are shell scripts")

# An operator that compiles in a second: what is tested is the loader.
SOURCE = """
#include "probe.h"
using torch::stable::Tensor;
Tensor scale(const Tensor& x) {
  Tensor out = torch::stable::empty_like(x);
  for (int64_t i = 0; i < x.numel(); ++i) out.mutable_data_ptr<float>()[i] = FACTOR * x.const_data_ptr<float>()[i];
  return out;
}
STABLE_TORCH_LIBRARY_IMPL(probe, CPU, m) { m.impl("scale", TORCH_BOX(&scale)); }
"""
HEADER = """
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#define FACTOR 2
"""
# Runs in processes of their own: builds or finds the library, loads it and uses it.
USE = """
import torch
from pathlib import Path
from internimage.ops import build
build.SOURCES = Path({sources!r})
library = torch.library.Library("probe", "DEF")
library.define("scale(Tensor x) -> Tensor")
assert build.native_available("cpu", "native")
print(torch.ops.probe.scale(torch.ones(2)).tolist())
"""


@pytest.fixture(scope="session")
def probe_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    (folder / "probe_cpu.cpp").write_text(SOURCE)
    (folder / "probe.h").write_text(HEADER)
    return folder


@dataclass
class CompilerScript:
    """A C++ compiler that writes a line for each file that it compiles, after running `prelude`."""

    path: Path
    log: Path

    def runs(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


def compiler_script(folder: Path, prelude: str = "") -> CompilerScript:
    script = CompilerScript(folder / "c++", folder / "compiled")
    real = shlex.quote(shutil.which("c++") or shutil.which("g++") or shutil.which("clang++") or "c++")
    script.path.write_text(
        f"#!/bin/sh\ncase \" $* \" in *' -c '*)\n{prelude}\necho once >> {shlex.quote(str(script.log))};; esac\n"
        f'exec {real} "$@"\n'
    )
    script.path.chmod(script.path.stat().st_mode | stat.S_IXUSR)
    return script


@pytest.fixture
def probe(probe_sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small sources, an empty cache and a loader that has not decided anything; gives the cache."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("INTERNIMAGE_CACHE", str(cache))
    monkeypatch.setattr(build, "SOURCES", probe_sources)
    for state in ("_answers", "_problems", "_loaded"):
        monkeypatch.setattr(build, state, {})
    monkeypatch.setattr(build, "_warned", set())
    return cache


@dataclass
class Filled:
    cache: Path
    compiler: CompilerScript


@pytest.fixture(scope="session")
def built_once(probe_sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """A cache that one process has filled."""
    folder = tmp_path_factory.mktemp("filled")
    compiler = compiler_script(folder)
    environment = {"INTERNIMAGE_CACHE": str(folder / "cache"), "CXX": str(compiler.path)}
    assert run(USE.format(sources=str(probe_sources)), environment).strip() == "[2.0, 2.0]"
    return Filled(folder / "cache", compiler)


@pytest.fixture
def filled(built_once: Filled, probe: Path, monkeypatch: pytest.MonkeyPatch) -> Filled:
    """A copy of that cache, as the cache of this test."""
    shutil.copytree(built_once.cache, probe)
    monkeypatch.setenv("CXX", str(built_once.compiler.path))
    return replace(built_once, cache=probe)


def start(code: str, environment: dict[str, str]) -> "subprocess.Popen[str]":
    paths = [str(Path(build.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(code: str, environment: dict[str, str]) -> str:
    process = start(code, environment)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output


def libraries(cache: Path) -> list[Path]:
    return list(cache.glob(f"*/*{build.SUFFIX}"))


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


# --- building and finding


@posix
def test_a_finished_library_is_found_without_compiling(filled: Filled) -> None:
    before = filled.compiler.runs()
    path = build.build_library(cuda=False)
    assert path == build.find_library(cuda=False)
    assert path in libraries(filled.cache)
    assert filled.compiler.runs() == before == 1


@posix
def test_a_finished_library_serves_machines_without_a_compiler(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent")
    assert build.build_library(cuda=False) in libraries(filled.cache)


@posix
def test_a_damaged_library_is_never_found_and_is_built_anew(filled: Filled) -> None:
    (path,) = libraries(filled.cache)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert build.find_library(cuda=False) is None
    before = filled.compiler.runs()
    build.build_library(cuda=False)
    assert filled.compiler.runs() == before + 1
    (rebuilt,) = libraries(filled.cache)
    assert rebuilt.stat().st_size == len(whole)


@posix
def test_a_library_that_the_linker_refuses_is_a_clear_problem(filled: Filled, tmp_path: Path) -> None:
    path = tmp_path / f"no-library{build.SUFFIX}"
    path.write_text("text")
    with pytest.raises(BuildError, match=r"cannot be loaded.*Delete that file"):
        build.load(path)


@posix
def test_two_processes_at_once_build_once(probe: Path, probe_sources: Path, tmp_path: Path) -> None:
    compiler = compiler_script(tmp_path, prelude="sleep 1")
    environment = {"CXX": str(compiler.path)}
    processes = [start(USE.format(sources=str(probe_sources)), environment) for _ in range(2)]
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert output.strip() == "[2.0, 2.0]", errors
    assert compiler.runs() == 1
    assert len(libraries(probe)) == 1


@posix
def test_a_killed_build_and_stale_files_stop_nobody(
    probe: Path, probe_sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = tmp_path / "hang"
    hang.touch()
    pid = tmp_path / "pid"
    compiler = compiler_script(
        tmp_path, prelude=f"if rm '{hang}' 2>/dev/null; then echo $$ > '{pid}'; exec sleep 300; fi"
    )
    victim = start(USE.format(sources=str(probe_sources)), {"CXX": str(compiler.path)})
    wait_until(lambda: pid.exists() and pid.read_text().strip())
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=30)
    try:
        (folder,) = probe.iterdir()
        (left,) = folder.glob("build-*")
        (left / "lock").touch()  # of torch's own loader, which would wait for it for ever
        assert not libraries(probe)

        monkeypatch.setenv("CXX", str(compiler.path))
        assert build.build_library(cuda=False) == build.find_library(cuda=False)
        assert not list(folder.glob("build-*"))
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)


# --- the cache's key


@pytest.mark.parametrize(
    "change",
    [
        {"name": "standalone-cpu"},
        {"cpp": "// other"},
        {"cuda": "// other"},
        {"contents": "0"},
        {"cflags": ("-O0",)},
        {"cuda_cflags": ("-O0",)},
        {"ldflags": ("-g",)},
        {"architectures": "9.0"},
        {"platform": "linux-riscv64"},
        {"instruction_set": "other"},
        {"torch": "9.9"},
        {"torch_cuda": "99.9"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_shapes_a_library_changes_its_folder(probe: Path, change: dict[str, object]) -> None:
    recipe = build.make_recipe(cuda=False)
    assert build._folder_of(replace(recipe, **change)) != build._folder_of(recipe)  # type: ignore[arg-type]
    assert build._folder_of(build.make_recipe(cuda=False)) == build._folder_of(recipe)


@pytest.mark.parametrize("file", ["probe_cpu.cpp", "probe.h"])
def test_an_edited_source_or_header_is_another_recipe(
    probe_sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    copy = tmp_path / "sources"
    shutil.copytree(probe_sources, copy)
    monkeypatch.setattr(build, "SOURCES", copy)
    before = build.make_recipe(cuda=False)
    (copy / file).write_text((copy / file).read_text() + "// edited\n")
    assert build.make_recipe(cuda=False) != before


def test_the_instruction_set_decides_flags_and_folder(probe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = {}
    for name in (*toolchain.INSTRUCTION_SETS, "baseline"):
        monkeypatch.setattr(toolchain, "instruction_set", lambda name=name: name)
        recipes[name] = build.make_recipe(cuda=False)
    assert len({recipe.cflags for recipe in recipes.values()}) == len(recipes)
    assert len({build._folder_of(recipe) for recipe in recipes.values()}) == len(recipes)
    assert not any(flag.startswith(("-m", "/arch")) for flag in recipes["baseline"].cflags)


def test_another_compiler_does_not_get_this_compilers_library(tmp_path: Path) -> None:
    compiler = toolchain.Compiler("c++", "1.0")
    tools = build._Tools(compiler, ninja=tmp_path, toolkit=None)
    others = [
        replace(tools, compiler=replace(compiler, version="1.1")),
        replace(tools, compiler=replace(compiler, command="g++")),
        replace(tools, toolkit=toolchain.CudaToolkit(tmp_path, tmp_path, "13.0")),
    ]
    assert len({tools.tag, *(other.tag for other in others)}) == 4


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INTERNIMAGE_CACHE", str(tmp_path / "own"))
    assert build.cache_directory() == tmp_path / "own"
    monkeypatch.delenv("INTERNIMAGE_CACHE")
    monkeypatch.setenv("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", str(tmp_path))
    assert build.cache_directory() == tmp_path / "internimage"


# --- what goes wrong


@posix
def test_without_a_compiler_one_warning_names_the_mend_and_pure_pytorch_runs(tmp_path: Path) -> None:
    code = """
        import json, warnings
        import torch
        from internimage import ops
        from internimage.ops import build
        tensors = torch.rand(1, 4, 4, 8), torch.rand(1, 4, 4, 36), torch.rand(1, 4, 4, 18)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results = [ops.dcnv3(*tensors, groups=2) for _ in range(2)]
        with ops.use_backend("torch"):
            expected = ops.dcnv3(*tensors, groups=2)
        try:
            with ops.use_backend("native"):
                ops.dcnv3(*tensors, groups=2)
            refusal = ""
        except RuntimeError as error:
            refusal = str(error)
        print(json.dumps({
            "warnings": [str(warning.message) for warning in caught],
            "equal": all(torch.equal(result, expected) for result in results),
            "refusal": refusal,
            "loaded": len(build.loaded_libraries()),
        }))
    """
    environment = {"PATH": "", "CXX": "", "INTERNIMAGE_CACHE": str(tmp_path / "cache"), "INTERNIMAGE_BACKEND": "auto"}
    seen = json.loads(run(code, environment))
    (warning,) = seen["warnings"]
    install = "xcode-select --install" if sys.platform == "darwin" else "apt-get install g++"
    assert "no C++ compiler was found" in warning
    assert install in warning
    assert "Pure PyTorch runs instead" in warning
    assert seen["equal"]
    assert install in seen["refusal"]
    assert seen["loaded"] == 0
    assert not (tmp_path / "cache").exists()


def warnings_of_two_calls() -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert not native_available("cpu", "auto")
        assert not native_available("cpu", "auto")
    assert all(warning.category is RuntimeWarning for warning in caught)
    return [str(warning.message) for warning in caught]


@posix
def test_a_failing_build_warns_once_with_the_error_and_the_log(
    probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "bad_cpu.cpp").write_text("int f() { return undeclared_name; }\n")
    monkeypatch.setattr(build, "SOURCES", sources)
    (text,) = warnings_of_two_calls()
    assert re.search(r"bad_cpu\.cpp.*error.*undeclared_name", text)
    log = re.search(r"log is (\S+\.log)", text)
    assert log is not None
    assert "undeclared_name" in Path(log[1]).read_text()
    assert not list(probe.glob("*/build-*"))
    with pytest.raises(RuntimeError, match="undeclared_name"):
        native_available("cpu", "native")


def test_an_unusable_cache_warns_once_and_names_the_variable(
    probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()  # permissions would not stop a superuser: a folder below a file can't exist for anyone
    monkeypatch.setenv("INTERNIMAGE_CACHE", str(tmp_path / "file" / "cache"))
    (text,) = warnings_of_two_calls()
    assert "Set INTERNIMAGE_CACHE" in text


def test_missing_sources_are_an_error_and_not_an_empty_library(
    probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    with pytest.raises(BuildError, match="install internimage again"):
        build.build_library(cuda=False)


def test_a_frozen_program_does_not_start_itself_as_a_compiler(probe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(BuildError, match="frozen"):
        build.build_library(cuda=False)


# --- the decision


@pytest.mark.parametrize("device_type", ["mps", "xpu", "meta"])
def test_devices_without_kernels_run_pytorch_silently_and_refuse_native(probe: Path, device_type: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not native_available(device_type, "auto")
    with pytest.raises(RuntimeError, match="only for cpu and cuda"):
        native_available(device_type, "native")


def test_backend_torch_builds_nothing(probe: Path) -> None:
    assert not native_available("cpu", "torch")
    assert not probe.exists()


def test_an_unknown_backend_is_refused(probe: Path) -> None:
    with pytest.raises(ValueError, match='"auto", "native" or "torch", got \'fast\''):
        native_available("cpu", "fast")


def test_threads_share_one_build(probe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []

    def load(device_type: str) -> None:
        loads.append(device_type)
        time.sleep(0.1)

    monkeypatch.setattr(build, "_load", load)
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(native_available("cpu", "auto"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == ["cpu"]
    assert answers == [True] * 8


class Doubled(torch.nn.Module):
    """Doubles where kernels are to be had, else triples."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x if native_available(x.device.type, "auto") else 3 * x


@pytest.mark.parametrize("available", [True, False])
def test_the_decision_is_a_constant_to_compile_and_export(
    probe: Path, monkeypatch: pytest.MonkeyPatch, available: bool
) -> None:
    monkeypatch.setattr(build, "_answers", {("cpu", "auto"): available})
    x = torch.ones(3)
    expected = x * (2 if available else 3)
    torch.compiler.reset()
    assert torch.equal(torch.compile(Doubled(), fullgraph=True, backend="eager")(x), expected)
    for strict in (True, False):
        program = torch.export.export(Doubled(), (x,), strict=strict)
        calls = [node for node in program.graph.nodes if node.op == "call_function"]
        assert len(calls) == 1
        assert torch.equal(program.module()(x), expected)


# --- libraries for processes without this package


@posix
def test_a_standalone_library_brings_the_schemas_and_needs_no_python(probe: Path) -> None:
    path = build.build_library(cuda=False, standalone=True)
    code = f"""
        import sys, torch
        torch.ops.load_library({str(path)!r})
        for name in {list(SCHEMAS)}:
            print(getattr(torch.ops.internimage, name).default._schema)
        assert "internimage" not in sys.modules
    """
    schemas = run(code, {}).strip().split("\n")
    for printed, name in zip(schemas, SCHEMAS, strict=True):
        assert printed == str(getattr(torch.ops.internimage, name).default._schema)
    if sys.platform == "linux":
        needed = subprocess.run(["readelf", "-d", str(path)], capture_output=True, text=True, check=False).stdout
        assert "libtorch_python" not in needed


@posix
@pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch is built without CUDA")
def test_cuda_kernels_build_for_a_named_architecture_without_a_device(
    probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        toolchain.find_cuda_toolkit()
    except BuildError as error:
        pytest.skip(str(error))
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "probe_cuda.cpp").write_text('extern "C" void launch();\nvoid use() { launch(); }\n')
    (sources / "probe.cu").write_text(
        '__global__ void nothing() {}\nextern "C" void launch() { nothing<<<1, 1>>>(); }\n'
    )
    monkeypatch.setattr(build, "SOURCES", sources)
    path = build.build_library(cuda=True, architectures=("9.0",))
    assert b"sm_90" in path.read_bytes()


# --- tools


@posix
def test_cxx_may_hold_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "env c++")
    compiler = toolchain.find_compiler()
    assert shlex.split(compiler.command)[1:] == ["c++"]
    assert re.search(r"\d", compiler.version)


def test_a_wrong_cxx_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent")
    with pytest.raises(BuildError, match="CXX names the compiler '/nonexistent'"):
        toolchain.find_compiler()


@posix
def test_ninja_is_found_beside_python_when_it_is_not_on_the_path(
    probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ninja")
    compiler = toolchain.find_compiler().command
    monkeypatch.setenv("CXX", compiler)
    tools = tmp_path / "bin"  # what g++ and the shell need, and no ninja
    tools.mkdir()
    for name in ("as", "ld", "sh", "which"):
        (tools / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(tools))
    assert shutil.which("ninja") is None
    assert build.build_library(cuda=False) in libraries(probe)


def test_without_ninja_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BuildError, match="pip install ninja"):
        toolchain.find_ninja()


def cuda_root(folder: Path, version: str, header: str = "include/cuda_runtime.h") -> Path:
    """A stand-in for a CUDA toolkit."""
    for file in ("bin/nvcc", header):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / header).touch()
    (folder / "bin/nvcc").write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {version}, V{version}.1'\n")
    (folder / "bin/nvcc").chmod(0o755)
    return folder


@posix
@pytest.mark.parametrize("header", ["include/cuda_runtime.h", "targets/x86_64-linux/include/cuda_runtime.h"])
def test_the_toolkit_of_pytorchs_major_version_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    wrapper = tmp_path / "local"  # an nvcc on PATH whose folder holds no toolkit
    wrapper.joinpath("bin").mkdir(parents=True)
    wrapper.joinpath("bin/nvcc").symlink_to("/bin/true")
    roots = [wrapper, cuda_root(tmp_path / "12", "12.8"), cuda_root(tmp_path / "13", "13.1", header)]
    monkeypatch.setattr(toolchain, "_cuda_roots", lambda: roots)
    toolkit = toolchain.find_cuda_toolkit()
    assert toolkit.root == roots[2]
    assert toolkit.version == "13.1"
    assert (toolkit.include / "cuda_runtime.h").is_file()


def packaged(folder: Path) -> Path:
    """A stand-in for NVIDIA's pip packages, as they lie in site-packages."""
    root = cuda_root(folder / "nvidia" / "cu13", "13.0")
    for name in ("nvvm/bin/cicc", "include/crt/host_config.h", "include/cccl/nv/target", "lib/libcudart.so.13"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


@posix
def test_pip_packages_serve_as_a_toolkit_and_are_left_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    root = packaged(tmp_path)
    before = sorted(root.rglob("*"))
    monkeypatch.setattr(toolchain, "_cuda_roots", lambda: [root])
    toolkit = toolchain.find_cuda_toolkit()
    home = toolkit.home(tmp_path / "links")
    assert (home / "lib64" / "libcudart.so").read_text() == "lib/libcudart.so.13"
    assert (home / "bin" / "nvcc").samefile(toolkit.nvcc)
    assert sorted(root.rglob("*")) == before
    shutil.rmtree(home)  # as after a build
    assert sorted(root.rglob("*")) == before


@posix
@pytest.mark.parametrize("part", ["nvvm", "include/crt", "include/cccl"])
def test_a_part_of_the_pip_packages_is_no_toolkit_and_the_error_names_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    root = packaged(tmp_path)
    shutil.rmtree(root / part)
    monkeypatch.setattr(toolchain, "_cuda_roots", lambda: [root])
    with pytest.raises(BuildError) as error:
        toolchain.find_cuda_toolkit()
    for name in ("cuda-nvcc", "cuda-crt", "cuda-runtime", "cuda-cccl", "nvvm"):
        assert ("'nvidia-" + name + "==13.0.*'" in str(error.value)) == (sys.platform == "linux")


def test_the_extra_installs_the_packages_that_the_error_names() -> None:
    requirements = importlib.metadata.requires("internimage") or []
    extra = [requirement.split(";")[0].strip() for requirement in requirements if "cuda-build" in requirement]
    assert sorted(extra) == sorted(toolchain.CUDA_PACKAGES)


@posix
def test_a_toolkit_with_all_its_libraries_needs_no_links(tmp_path: Path) -> None:
    root = cuda_root(tmp_path / "13", "13.0")
    (root / "lib64").mkdir()
    (root / "lib64" / "libcudart.so").touch()
    toolkit = toolchain.CudaToolkit(root, root / "include", "13.0")
    assert toolkit.home(tmp_path / "links") == root
    assert not (tmp_path / "links").exists()


@posix
def test_a_toolkit_of_another_version_is_named_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(toolchain, "_cuda_roots", lambda: [cuda_root(tmp_path, "12.8")])
    with pytest.raises(BuildError, match=r"CUDA 13 toolkit are needed, found only .*CUDA 12\.8.*CUDA_HOME"):
        toolchain.find_cuda_toolkit()


def test_architectures_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0")
    assert toolchain.visible_architectures() == "8.0;9.0"


def test_without_a_device_the_architecture_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BuildError, match="Set TORCH_CUDA_ARCH_LIST"):
        toolchain.visible_architectures()
