"""Compiles the kernels in `csrc/` once per machine and loads them once per process, on first use.

Finished libraries lie in a cache folder, under a name made of everything that decides their content: sources, flags,
PyTorch, instruction set and compiler. A build runs in a child process and a fresh folder, under a lock that the
operating system releases when its holder dies; the finished file then moves into place in one step. So a killed build
leaves nothing that another process could wait for or load.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from internimage.ops import toolchain
from internimage.ops.file_lock import file_lock
from internimage.ops.schema import SCHEMAS
from internimage.ops.toolchain import BuildError

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).parent / "csrc"
DEVICE_TYPES = ("cpu", "cuda")  # those that have kernels
SUFFIX = ".pyd" if sys.platform == "win32" else ".so"  # what torch.utils.cpp_extension names its results

_lock = threading.Lock()
_answers: dict[tuple[str, str], bool] = {}  # (device type, backend) -> native_available
_problems: dict[str, str | None] = {}  # device type -> why its kernels are missing, None where they are loaded
_loaded: dict[str, Path] = {}
_warned: set[str] = set()


def native_available(device_type: str, backend: str) -> bool:
    """Whether the native kernels for `device_type` shall run; builds and loads them on first use.

    Args:
        device_type: `tensor.device.type`.
        backend: "auto" takes the kernels where they can be had and warns once where they cannot; "native" insists on
            them; "torch" never takes them.

    Raises:
        RuntimeError: backend is "native" and there are no kernels; the text says why and how to mend it.
        ValueError: an unknown backend.
    """
    answer = _answers.get((device_type, backend))
    return _decide(device_type, backend) if answer is None else answer


# What torch.compiler.assume_constant_result sets; calling that would import the compiler, seconds of every start.
native_available._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _decide(device_type: str, backend: str) -> bool:
    if backend not in ("auto", "native", "torch"):
        raise ValueError(f'internimage: backend must be "auto", "native" or "torch", got {backend!r}')
    if backend == "torch" or (backend == "auto" and not _has_kernels(device_type)):
        _answers[device_type, backend] = False
        return False
    if not _has_kernels(device_type):
        raise RuntimeError(
            f"internimage: backend 'native' was asked for a tensor on {device_type!r}, but there are native kernels "
            f"only for {' and '.join(DEVICE_TYPES)}. Use backend 'auto', which runs pure PyTorch there."
        )
    with _lock:
        if device_type not in _problems:
            _problems[device_type] = _load(device_type)
    problem = _problems[device_type]
    if problem is None:
        _answers[device_type, backend] = True
        return True
    if backend == "native":
        raise RuntimeError(f"internimage: no native kernels for {device_type}: {problem}")
    _warn(device_type, problem)
    _answers[device_type, backend] = False
    return False


def _has_kernels(device_type: str) -> bool:
    return device_type == "cpu" or (device_type == "cuda" and torch.version.hip is None)


def _load(device_type: str) -> str | None:
    """Builds and loads; the reason where that fails."""
    try:
        if device_type == "cuda" and not torch.cuda.is_available():
            raise BuildError("PyTorch sees no CUDA device (torch.cuda.is_available() is False).")
        path = build_library(cuda=device_type == "cuda")
        load(path)
    except BuildError as error:
        return str(error)
    _loaded[device_type] = path
    return None


def load(path: Path) -> None:
    """Loads a built library into this process.

    Raises:
        BuildError: the dynamic linker refuses it.
    """
    try:
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise BuildError(f"{path} cannot be loaded: {error}. Delete that file to have it built anew.") from error


def adopt_library(path: Path, device_type: str) -> None:
    """Take the kernels of a standalone library for a device whose kernels this process has not loaded yet.

    Raises:
        BuildError: the dynamic linker refuses it.
    """
    with _lock:
        if device_type not in _loaded:
            os.environ[_DEFINED] = "1"
            try:
                load(path)
            finally:
                del os.environ[_DEFINED]
            _loaded[device_type], _problems[device_type] = path, None
            _answers.clear()


def _warn(device_type: str, problem: str) -> None:
    with _lock:
        if problem in _warned:
            return
        _warned.add(problem)
    warnings.warn(
        f"internimage: no native kernels for {device_type}: {problem} Pure PyTorch runs instead, with the same "
        "results but slower (10 to 50 times on a CPU). `internimage doctor` shows the whole picture; "
        "INTERNIMAGE_BACKEND=torch silences this warning.",
        RuntimeWarning,
        stacklevel=4,
    )


def build_library(
    *,
    cuda: bool,
    standalone: bool = False,
    architectures: Sequence[str] | None = None,
    instruction_set: str | None = None,
) -> Path:
    """Path of the compiled kernels in the cache, built if they are not there yet.

    Args:
        cuda: the CUDA kernels; else those for the CPU.
        standalone: for processes without this Python package: the library also defines the operators' schemas where
            nobody has, and with `cuda` holds the kernels of both devices.
        architectures: compute capabilities for CUDA, such as ("8.0", "9.0+PTX"), to build for other machines;
            by default TORCH_CUDA_ARCH_LIST or the visible devices.
        instruction_set: of the CPU, a name in `toolchain.INSTRUCTION_SETS` or "baseline"; by default this CPU's best.

    Raises:
        BuildError: a tool is missing, the compiler fails, or the cache cannot be written.
    """
    recipe = make_recipe(cuda=cuda, standalone=standalone, architectures=architectures, instruction_set=instruction_set)
    return build(recipe)


def find_library(*, cuda: bool) -> Path | None:
    """The library that `build_library` would give without building; None if it has to be built first.

    Raises:
        BuildError: it is not built, and a tool that this needs is missing.
    """
    return find(make_recipe(cuda=cuda))


def loaded_libraries() -> dict[str, Path]:
    """The libraries that this process has loaded, by device type."""
    return dict(_loaded)


def cache_directory() -> Path:
    """INTERNIMAGE_CACHE, else `internimage` in the user's cache folder (XDG_CACHE_HOME, LOCALAPPDATA or ~/.cache).

    Raises:
        BuildError: none of them is set and the user has no home folder.
    """
    chosen = os.environ.get("INTERNIMAGE_CACHE")
    if chosen:
        return Path(chosen).absolute()
    base = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "internimage"
    except RuntimeError as error:
        raise BuildError(f"{error} Set INTERNIMAGE_CACHE to a folder for compiled kernels.") from error


@dataclass(frozen=True)
class Recipe:
    """All that decides what a library holds, save for the tools: equal recipes share a folder of the cache."""

    name: str
    cpp: str  # the text of the C++ unit, which includes the sources
    cuda: str  # the text of the CUDA unit; "" for a library without CUDA
    contents: str  # digest of the sources and headers
    cflags: tuple[str, ...]
    cuda_cflags: tuple[str, ...]
    ldflags: tuple[str, ...]
    architectures: str  # as in TORCH_CUDA_ARCH_LIST; "" for a library without CUDA
    platform: str
    instruction_set: str
    torch: str
    torch_cuda: str | None


def make_recipe(
    *,
    cuda: bool,
    standalone: bool = False,
    architectures: Sequence[str] | None = None,
    instruction_set: str | None = None,
) -> Recipe:
    """What `build_library` builds: `*_cpu.cpp`, or `*_cuda.cpp` and `*.cu`, of the folder `SOURCES`.

    Raises:
        BuildError: no CUDA architecture is known, or the sources are missing.
    """
    cpp = _sources("*_cpu.cpp") if standalone or not cuda else []
    cpp += _sources("*_cuda.cpp") if cuda else []
    cu = _sources("*.cu") if cuda else []
    headers = sorted([*SOURCES.glob("*.h"), *SOURCES.glob("*.cuh")])
    arch_list = "" if not cuda else ";".join(architectures) if architectures else toolchain.visible_architectures()
    level = instruction_set or toolchain.instruction_set()
    # The stable ABI of the oldest PyTorch that we support: a library built here also runs on later ones.
    defines = ["-DTORCH_TARGET_VERSION=0x020d000000000000", *(["-DUSE_CUDA"] if cuda else [])]
    return Recipe(
        name="-".join([*(["standalone"] if standalone else []), "cuda" if cuda else "cpu"]),
        cpp=_include_lines(cpp) + (_schema_source() if standalone else ""),
        cuda=_include_lines(cu),
        contents=_digest(*(path.read_bytes() for path in [*headers, *cpp, *cu])),
        cflags=("/O2" if sys.platform == "win32" else "-O3", *toolchain.cpu_flags(level), *defines),
        cuda_cflags=("-O1", *defines) if cuda else (),  # for the host's side: nvcc optimises kernels in any case
        ldflags=_LDFLAGS,
        architectures=arch_list,
        platform=toolchain.platform_name(),
        instruction_set=level,
        torch=torch.__version__,
        torch_cuda=torch.version.cuda,
    )


# load_inline links libtorch_python, which a process without Python has not got: drop what no symbol needs.
_LDFLAGS = {"linux": ("-Wl,--as-needed",), "darwin": ("-Wl,-dead_strip_dylibs",)}.get(sys.platform, ())


def _sources(pattern: str) -> list[Path]:
    sources = sorted(SOURCES.glob(pattern))
    if not sources:
        raise BuildError(f"no kernel sources {pattern} lie in {SOURCES}; install internimage again.")
    return sources


def _include_lines(sources: Sequence[Path]) -> str:
    return "".join(f'#include "{path.name}"\n' for path in sources)  # the compiler's messages then name our files


# While this variable is set, a standalone library leaves the definitions to the Python module that made them.
_DEFINED = "INTERNIMAGE_SCHEMAS_DEFINED"

_DEFINE = """
#include <cstdlib>
#include <torch/csrc/stable/library.h>
STABLE_TORCH_LIBRARY_FRAGMENT(internimage, m) {
  if (std::getenv("VARIABLE")) return;
  for (const char* schema : {SCHEMAS}) m.def(schema);
}
"""


def _schema_source() -> str:
    schemas = ",\n".join(f'"{schema}"' for schema in SCHEMAS.values())
    return _DEFINE.replace("SCHEMAS", schemas).replace("VARIABLE", _DEFINED)


def find(recipe: Recipe) -> Path | None:
    """The recipe's library, if the cache holds it.

    Without a compiler a library that any compiler built is taken, so that an image can ship a filled cache.

    Raises:
        BuildError: it is not there, and a tool that a build needs is missing.
    """
    folder = _folder_of(recipe)
    try:
        return _find_intact(folder, _find_tools(recipe).tag)
    except BuildError:
        ready = _find_intact(folder, "*")
        if ready is None:
            raise
        return ready


def build(recipe: Recipe) -> Path:
    """Path of the recipe's library, taken from the cache or built into it.

    Raises:
        BuildError: as for `build_library`.
    """
    ready = find(recipe)
    if ready is not None:
        return ready
    tools = _find_tools(recipe)
    folder = _folder_of(recipe)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with file_lock(folder / "lock") as held:
            ready = _find_intact(folder, tools.tag)  # another process may have built it while this one waited
            if ready is not None:
                return ready
            _sweep(folder, builds=held)
            return _compile(recipe, tools, folder)
    except OSError as error:
        raise BuildError(
            f"the cache folder {folder} cannot be used: {error}. Set INTERNIMAGE_CACHE to a folder that is writable."
        ) from error


@dataclass(frozen=True)
class _Tools:
    compiler: toolchain.Compiler
    ninja: Path
    toolkit: toolchain.CudaToolkit | None

    @property
    def tag(self) -> str:
        cuda = "" if self.toolkit is None else self.toolkit.version
        return _digest(self.compiler.command, self.compiler.version, cuda)


def _find_tools(recipe: Recipe) -> _Tools:
    if not sys.executable or getattr(sys, "frozen", False):
        raise BuildError("a build needs the Python interpreter, which this frozen or embedded program has not got.")
    toolkit = toolchain.find_cuda_toolkit() if recipe.architectures else None
    return _Tools(compiler=toolchain.find_compiler(), ninja=toolchain.find_ninja(), toolkit=toolkit)


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def _folder_of(recipe: Recipe) -> Path:
    return cache_directory() / f"{recipe.name}-{_digest(json.dumps(asdict(recipe), sort_keys=True))}"


def _find_intact(folder: Path, tag: str) -> Path | None:
    """An intact library in `folder` that the tools `tag` built."""
    return next((path for path in sorted(folder.glob(f"{tag}-*{SUFFIX}")) if _is_intact(path)), None)


def _is_intact(path: Path) -> bool:
    """Whether the file is what its name says: loading a damaged library can kill the process."""
    try:
        return path.stem.endswith("-" + _digest(path.read_bytes()))
    except OSError:
        return False


def _sweep(folder: Path, *, builds: bool) -> None:
    """Removes damaged libraries and, if no other process can be building, what killed builds have left."""
    for path in folder.glob(f"*{SUFFIX}"):
        if not _is_intact(path):
            logger.info("internimage: %s is damaged and is built anew", path)
            path.unlink()
    for path in folder.glob("build-*") if builds else ():
        shutil.rmtree(path, ignore_errors=True)


# Runs in a process of its own: load_inline reads the environment (CXX, CUDA_HOME, PATH), which threads share, and loads
# what it built, which tries a new library where a crash does no harm. It takes the parent's sys.path to find its torch.
_CHILD = """
import json, sys
request = json.load(sys.stdin)
sys.path[:] = request["path"]
from torch.utils.cpp_extension import load_inline
try:
    load_inline(**request["arguments"])
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def _compile(recipe: Recipe, tools: _Tools, folder: Path) -> Path:
    start = time.monotonic()
    build_folder = Path(tempfile.mkdtemp(prefix="build-", dir=folder))
    try:
        request = {
            "path": [str(Path(entry).absolute()) for entry in sys.path],
            "arguments": {**_arguments(recipe, tools), "build_directory": str(build_folder)},
        }
        result = subprocess.run(
            [sys.executable, "-c", _CHILD],
            input=json.dumps(request),
            cwd=build_folder,
            env=_environment(recipe, tools, build_folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        built = build_folder / f"internimage{SUFFIX}"
        if result.returncode or not built.is_file():
            log = folder / f"{tools.tag}.log"
            log.write_text(result.stdout, encoding="utf-8")
            raise BuildError(_describe_failure(tools.compiler, result.stdout, log))
        library = folder / f"{tools.tag}-{_digest(built.read_bytes())}{SUFFIX}"
        built.replace(library)
    finally:
        shutil.rmtree(build_folder, ignore_errors=True)
    logger.info("internimage: built the %s kernels in %.1f s: %s", recipe.name, time.monotonic() - start, library)
    return library


def _arguments(recipe: Recipe, tools: _Tools) -> dict[str, object]:
    include = [str(SOURCES), *([] if tools.toolkit is None else [str(tools.toolkit.include)])]
    return {
        "name": "internimage",
        "cpp_sources": [recipe.cpp],
        "cuda_sources": [recipe.cuda] if recipe.cuda else None,
        "extra_cflags": recipe.cflags,
        "extra_cuda_cflags": recipe.cuda_cflags,
        "extra_ldflags": recipe.ldflags,
        "extra_include_paths": include,
        "with_cuda": bool(recipe.architectures),
        "is_python_module": False,
        "no_implicit_headers": True,
    }


def _environment(recipe: Recipe, tools: _Tools, build_folder: Path) -> dict[str, str]:
    environment = {
        **os.environ,
        "CXX": tools.compiler.command,
        "PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), str(tools.ninja.parent)]),
        "TORCH_DONT_CHECK_COMPILER_ABI": "1",  # the check runs `which`, which small images lack
        "CUDA_VISIBLE_DEVICES": "",  # compiling needs no device
    }
    if tools.toolkit is not None:
        home = tools.toolkit.home(build_folder / "cuda")
        environment |= {"CUDA_HOME": str(home), "TORCH_CUDA_ARCH_LIST": recipe.architectures}
    return environment


def _describe_failure(compiler: toolchain.Compiler, output: str, log: Path) -> str:
    lines = [line.strip()[:300] for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\berror\b( \w+)?:|undefined reference|cannot find -l", line)]
    return (
        f"the build with {compiler.command} ({compiler.version}) failed. The whole log is {log}; it says:\n  "
        + "\n  ".join(errors[:5] or lines[-5:] or ["(nothing)"])
        + "\n"
    )
