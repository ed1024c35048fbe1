"""What this installation has, what runs on it, and what to install for the rest: the text of `internimage doctor`."""

import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """One line of the report; `mend` says what to do about it, and is empty where nothing is amiss."""

    section: str
    name: str
    value: str
    mend: str = ""


def report(*, build: bool = False) -> str:
    """The findings as text, then what to install. Raises nothing: a broken part is reported as such.

    Args:
        build: build the kernels of this machine's devices if they are not built yet; otherwise nothing is built.
    """
    findings = examine(build=build)
    width = max(len(finding.name) for finding in findings)
    lines: list[str] = []
    section = ""
    for finding in findings:
        if finding.section != section:
            section = finding.section
            lines += ["", section] if lines else [section]
        lines.append(f"  {finding.name:<{width}}  {finding.value}")
    mends = list(dict.fromkeys(finding.mend for finding in findings if finding.mend))
    lines += ["", "What to do", *(f"  * {mend}" for mend in mends)] if mends else ["", "Nothing is missing."]
    return "\n".join(lines)


def examine(*, build: bool = False) -> list[Finding]:
    """The findings, in the order of the report. Raises nothing."""
    findings: list[Finding] = []
    for section, examination in (
        ("Versions", _versions),
        ("Compiling", _tools),
        ("CUDA", _cuda),
        ("Cache", _cache),
        ("Kernels", lambda: _kernels(build=build)),
        ("Packages", _packages),
    ):
        findings += _guarded(section, examination)
    return findings


Row = tuple[str, str] | tuple[str, str, str]


def _guarded(section: str, examination: Callable[[], Iterator[Row]]) -> Iterator[Finding]:
    try:
        for row in examination():
            yield Finding(section, *row)
    # Whatever is broken on the user's machine must show in the report instead of ending it.
    except Exception as error:
        yield Finding(
            section, "failed", f"{type(error).__name__}: {error}", f"{section}: mend the failure shown above."
        )


def _versions() -> Iterator[Row]:
    from internimage._version import __version__

    yield "internimage", __version__
    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "system", platform.platform()
    import torch

    yield "torch", torch.__version__


def _tools() -> Iterator[Row]:
    from internimage.ops import toolchain

    try:
        compiler = toolchain.find_compiler()
        yield "C++ compiler", f"{compiler.command} ({compiler.version})"
    except toolchain.BuildError as error:
        yield "C++ compiler", "none", str(error)
    try:
        yield "ninja", str(toolchain.find_ninja())
    except toolchain.BuildError as error:
        yield "ninja", "none", str(error)
    level = toolchain.instruction_set()
    yield "instruction set", f"{level} ({' '.join(toolchain.cpu_flags(level)) or 'no extra flags'})"


def _cuda() -> Iterator[Row]:
    import torch

    from internimage.ops import toolchain

    yield "PyTorch's CUDA", torch.version.cuda or "none: this PyTorch is built without CUDA"
    available = torch.cuda.is_available()
    for index in range(torch.cuda.device_count() if available else 0):
        major, minor = torch.cuda.get_device_capability(index)
        yield f"device {index}", f"{torch.cuda.get_device_name(index)}, capability {major}.{minor}"
    if not available:
        yield "devices", "none"
    try:
        toolkit = toolchain.find_cuda_toolkit()
        yield "toolkit", f"{toolkit.root} (CUDA {toolkit.version})"
        yield "nvcc", str(toolkit.nvcc)
    except toolchain.BuildError as error:
        yield "toolkit", "none", str(error) if available else ""  # without a device it is of no use


def _cache() -> Iterator[Row]:
    from internimage.ops import build, toolchain

    try:
        folder = build.cache_directory()
    except toolchain.BuildError as error:
        yield "folder", "none", str(error)
        return
    yield "folder", str(folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    libraries = sum(path.suffix == build.SUFFIX for path in files)
    yield "holds", f"{libraries} libraries, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB"
    if _is_writable(folder):
        yield "writable", "yes"
    else:
        yield "writable", "no", f"Set INTERNIMAGE_CACHE to a folder that is writable; {folder} is not."


def _is_writable(folder: Path) -> bool:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _kernels(*, build: bool) -> Iterator[Row]:
    import torch

    from internimage.ops import get_backend

    yield "backend", f"{get_backend()} (environment variable INTERNIMAGE_BACKEND, internimage.ops.use_backend)"
    device_types = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    for device_type in device_types:
        yield _kernel(device_type, build=build)
    for other in ("mps", "xpu"):
        if torch.get_device_module(other).is_available():
            yield other, "pure PyTorch: there are no kernels for it"


def _kernel(device_type: str, *, build: bool) -> Row:
    from internimage.ops import get_backend
    from internimage.ops.build import build_library, find_library, loaded_libraries
    from internimage.ops.toolchain import BuildError

    cuda = device_type == "cuda"
    unused = " (not used: the backend is torch)" if get_backend() == "torch" else ""
    try:
        built = build_library(cuda=cuda) if build else find_library(cuda=cuda)
    except BuildError as error:
        return device_type, "pure PyTorch", str(error)
    loaded = loaded_libraries().get(device_type)
    if loaded is not None:
        return device_type, f"native, loaded: {loaded}{unused}"
    if built is not None:
        return device_type, f"native, built: {built}{unused}"
    return device_type, f"native, will be built on first use{unused}"


def _packages() -> Iterator[Row]:
    for requirement in importlib.metadata.requires("internimage") or []:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        extra = re.search(r"""extra\s*==\s*["']([\w-]+)["']""", requirement)
        if name == "internimage" or (extra and extra[1] in ("test", "cuda-build")):  # CUDA has a section of its own
            continue
        command = f"python -m pip install 'internimage[{extra[1]}]'" if extra else f"python -m pip install {name}"
        needed = f"optional, for {extra[1]}" if extra else "required"
        try:
            yield name, f"{importlib.metadata.version(name)} ({needed})"
        except importlib.metadata.PackageNotFoundError:
            yield name, f"missing ({needed})", f"{name} is missing ({needed}): `{command}`."
