"""Finds what compiles the kernels: the C++ compiler, ninja, the CUDA toolkit, and the CPU's instruction set.

What is missing raises `BuildError`, whose text names the command that installs it.
"""

import functools
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch


class BuildError(RuntimeError):
    """The native kernels cannot be built or loaded here; the text says why and how to mend it."""


# Instruction sets that the kernels are compiled for: the capabilities of `torch.cpu` that they need, and the flags of
# GCC and clang, then of MSVC. The best comes first; a CPU without any, or of another architecture, gets the compiler's
# baseline (on aarch64 that has NEON).
INSTRUCTION_SETS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "avx512": (
        ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "fma3", "f16c"),
        ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512", "-mfma", "-mf16c"),
        ("/arch:AVX512",),
    ),
    "avx2": (("avx2", "fma3", "f16c"), ("-mavx2", "-mfma", "-mf16c"), ("/arch:AVX2",)),
}


@functools.cache
def instruction_sets() -> tuple[str, ...]:
    """Names of the rows of `INSTRUCTION_SETS` that this CPU runs, best first, then "baseline"."""
    capabilities = torch.cpu.get_capabilities()
    rows = INSTRUCTION_SETS.items()
    runs = [name for name, (needed, *_) in rows if all(capabilities.get(capability, False) for capability in needed)]
    return (*runs, "baseline")


def instruction_set() -> str:
    """Name of the best of `instruction_sets`."""
    return instruction_sets()[0]


def cpu_flags(name: str) -> list[str]:
    """Compiler flags for the instruction set `name`."""
    if name == "baseline":
        return []
    _, gcc, msvc = INSTRUCTION_SETS[name]
    return list(msvc if sys.platform == "win32" else gcc)


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: the command line that starts it, and the first line of what it says of itself."""

    command: str
    version: str


def find_compiler() -> Compiler:
    """The C++ compiler that builds the kernels: `CXX`, else the first of c++, g++ and clang++ (on Windows: cl).

    Raises:
        BuildError: there is none, or it does not run.
    """
    chosen = os.environ.get("CXX", "").strip()
    names = [chosen] if chosen else ["cl"] if sys.platform == "win32" else ["c++", "g++", "clang++"]
    for name in names:
        command = [name] if shutil.which(name) else shlex.split(name)  # CXX may hold arguments: "ccache g++"
        program = shutil.which(command[0])
        if program is not None:
            return Compiler(command=_join([program, *command[1:]]), version=_compiler_version([program, *command[1:]]))
    if chosen:
        raise BuildError(f"CXX names the compiler {chosen!r}, which cannot be run; correct or unset CXX.")
    raise BuildError(f"no C++ compiler was found (looked for {', '.join(names)}). {_how_to_install_compiler()}")


def _join(command: list[str]) -> str:
    return command[0] if len(command) == 1 else shlex.join(command)


def _compiler_version(command: list[str]) -> str:
    arguments = [] if sys.platform == "win32" else ["--version"]
    try:
        result = subprocess.run([*command, *arguments], capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise BuildError(f"the C++ compiler {_join(command)} does not start: {error}.") from error
    lines = (result.stdout + result.stderr).splitlines()  # cl prints its name on stderr
    return next((line.strip() for line in lines if line.strip()), "unknown version")


def _how_to_install_compiler() -> str:
    if sys.platform == "darwin":
        return "Install one with `xcode-select --install`."
    if sys.platform == "win32":
        return (
            "Install the Visual Studio Build Tools with the C++ workload "
            "(`winget install Microsoft.VisualStudio.2022.BuildTools`) and start Python from its "
            "x64 Native Tools prompt."
        )
    return (
        "Install one with `apt-get install g++` (Debian, Ubuntu), `dnf install gcc-c++` (Fedora, RHEL) "
        "or `conda install -c conda-forge cxx-compiler`."
    )


def find_ninja() -> Path:
    """The ninja program: on PATH, else the one of the installed `ninja` package.

    Raises:
        BuildError: there is none.
    """
    program = shutil.which("ninja")
    if program is not None:
        return Path(program)
    if importlib.util.find_spec("ninja") is not None:
        import ninja

        packaged = shutil.which("ninja", path=ninja.BIN_DIR)
        if packaged is not None:
            return Path(packaged)
    raise BuildError("the program ninja was not found. Install it with `python -m pip install ninja`.")


@dataclass(frozen=True)
class CudaToolkit:
    """A folder with nvcc and the CUDA headers, and its version, such as "13.0"."""

    root: Path
    include: Path
    version: str

    @property
    def nvcc(self) -> Path:
        """The compiler of the toolkit."""
        return self.root / "bin" / _NVCC

    def architectures(self) -> list[str]:
        """The rows of `CUDA_ARCHITECTURES` that this nvcc knows."""
        result = subprocess.run([self.nvcc, "--list-gpu-code"], capture_output=True, text=True, check=False)
        known = result.stdout.split()
        return [name for name in CUDA_ARCHITECTURES if f"sm_{name.replace('.', '')}" in known]

    def home(self, links: Path) -> Path:
        """The folder that torch's builder takes as CUDA_HOME: the root, or one made of links to it.

        The pip packages have no `lib64`, and `libcudart.so` only with its version.

        Args:
            links: a folder to make for the links, where they are needed.
        """
        if sys.platform == "win32" or (self.root / "lib64" / "libcudart.so").exists():
            return self.root
        (links / "lib64").mkdir(parents=True)
        for entry in self.root.iterdir():
            if entry.name != "lib64":
                (links / entry.name).symlink_to(entry)
        for library in (self.root / "lib").glob("lib*"):
            (links / "lib64" / library.name).symlink_to(library)
            if library.name.startswith("libcudart.so.") and not (links / "lib64" / "libcudart.so").exists():
                (links / "lib64" / "libcudart.so").symlink_to(library)
        return links


_NVCC = "nvcc.exe" if sys.platform == "win32" else "nvcc"

# What libraries for other machines are built for: Turing, Ampere (two), Ada, Hopper and Blackwell (two).
CUDA_ARCHITECTURES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")

# Together they are a toolkit: the extra `cuda-build`.
CUDA_PACKAGES = tuple(
    f"nvidia-{name}==13.0.*" for name in ("cuda-nvcc", "cuda-crt", "cuda-runtime", "cuda-cccl", "nvvm")
)


def find_cuda_toolkit() -> CudaToolkit:
    """The first toolkit of CUDA_HOME, CUDA_PATH, PATH, the usual places and pip whose major version is PyTorch's.

    Raises:
        BuildError: there is none.
    """
    wanted = torch.version.cuda
    if wanted is None:
        raise BuildError("this PyTorch is built without CUDA. Install a CUDA build: https://pytorch.org/get-started.")
    others = []
    for root in _cuda_roots():
        toolkit = _inspect_cuda_root(root)
        if toolkit is None:
            continue
        if toolkit.version.split(".")[0] == wanted.split(".")[0]:
            return toolkit
        others.append(f"{toolkit.root} (CUDA {toolkit.version})")
    found = f"found only {', '.join(others)}" if others else "found none"
    major = wanted.split(".")[0]
    packages = " ".join(f"'{package}'" for package in CUDA_PACKAGES)
    pip = f"Install it with `python -m pip install {packages}` (the extra internimage[cuda-build]). Or install"
    raise BuildError(
        f"nvcc and the headers of a CUDA {major} toolkit are needed, {found}. "
        f"{pip if f'=={major}.' in packages and sys.platform == 'linux' else 'Install'} the toolkit "
        f"(https://developer.nvidia.com/cuda-downloads, or `conda install -c nvidia cuda-toolkit={wanted}`) and set "
        "CUDA_HOME to its folder."
    )


def _cuda_roots() -> list[Path]:
    roots = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    nvcc = shutil.which("nvcc")
    if nvcc is not None:  # may be a wrapper script far from its toolkit: `_inspect_cuda_root` decides
        roots.append(Path(nvcc).resolve().parent.parent)
    if sys.platform == "win32":
        program_files = Path(os.environ.get("PROGRAMFILES", "C:/Program Files"))
        roots += sorted((program_files / "NVIDIA GPU Computing Toolkit" / "CUDA").glob("v*"), reverse=True)
    else:
        roots += [Path("/usr/local/cuda"), *sorted(Path("/usr/local").glob("cuda-*"), reverse=True), Path("/opt/cuda")]
    spec = importlib.util.find_spec("nvidia")  # NVIDIA's pip packages share this folder
    for folder in spec.submodule_search_locations or () if spec else ():
        roots += sorted(Path(folder).glob("cu[0-9]*"), reverse=True)
    roots.append(Path(sys.prefix))  # conda
    return list(dict.fromkeys(roots))


def _inspect_cuda_root(root: Path) -> CudaToolkit | None:
    includes = [root / "include", *sorted(root.glob("targets/*/include"))]  # the second is conda's layout
    include = next((folder for folder in includes if (folder / "cuda_runtime.h").is_file()), None)
    nvcc = root / "bin" / _NVCC
    if include is None or not nvcc.is_file():
        return None
    # A part of it may be installed: PyTorch itself brings some of NVIDIA's pip packages.
    if root.parent.name == "nvidia" and not all(
        (root / part).exists() for part in ("nvvm/bin", "include/crt", "include/cccl/nv")
    ):
        return None
    try:
        result = subprocess.run([nvcc, "--version"], capture_output=True, text=True, errors="replace", check=False)
    except OSError:
        return None
    version = re.search(r"release (\d+\.\d+)", result.stdout)
    return CudaToolkit(root=root, include=include, version=version[1]) if version else None


def visible_architectures() -> str:
    """Compute capabilities to build for, in the form of TORCH_CUDA_ARCH_LIST: that variable, else the visible devices.

    Raises:
        BuildError: the variable is unset and no device is visible.
    """
    chosen = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip()
    if chosen and chosen != "native":
        return chosen
    if not torch.cuda.is_available():
        raise BuildError(
            "no CUDA device is visible, so the architecture to build for is unknown. Set TORCH_CUDA_ARCH_LIST "
            '(for example "8.0;9.0") to build without a device.'
        )
    capabilities = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    return ";".join(f"{major}.{minor}" for major, minor in sorted(capabilities))


def platform_name() -> str:
    """Operating system and processor architecture, such as "linux-x86_64"."""
    return f"{sys.platform}-{platform.machine()}"
