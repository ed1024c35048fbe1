"""`internimage build-ops`: one library with the operators, built ahead of time for processes without Python."""

import argparse
import re
import shutil
from pathlib import Path

from internimage.ops import build, toolchain

EXAMPLES = """examples:
  internimage build-ops --output libinternimage.so                    kernels for the CPU
  internimage build-ops --arch 8.0 9.0 --output libinternimage.so     and for these CUDA devices
  internimage build-ops --arch all --output libinternimage.so         and for every one that nvcc knows
  internimage build-ops --cpu avx2 --output libinternimage.so         for CPUs that lack what this one has

A program loads it before a package that was made by internimage.deploy: dlopen("libinternimage.so", RTLD_NOW) in C++.
`internimage export` puts one beside the model.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = " ".join(toolchain.CUDA_ARCHITECTURES)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="where to put the library")
    parser.add_argument(
        "--arch",
        nargs="+",
        default=[],
        metavar="ARCH",
        help=f"compute capabilities of CUDA devices, such as 8.0 or 9.0+PTX; all: {names}, "
        "with portable code of the newest (without it: no CUDA)",
    )
    parser.add_argument(
        "--cpu",
        choices=[*toolchain.INSTRUCTION_SETS, "baseline"],
        default=toolchain.instruction_set(),
        help="instruction set of the CPU (here: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    try:
        architectures = _architectures(arguments.arch)
        library = build.build_library(
            cuda=bool(architectures), standalone=True, architectures=architectures, instruction_set=arguments.cpu
        )
    except toolchain.BuildError as error:
        raise OSError(str(error)) from error
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(library, arguments.output)
    devices = f"the CPU ({arguments.cpu})" + "".join(f", CUDA {name}" for name in architectures)
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.1f} MB, for {devices}")
    return 0


def _architectures(names: list[str]) -> list[str]:
    wrong = [name for name in names if name != "all" and not re.fullmatch(r"\d+\.\d+[af]?(\+PTX)?", name)]
    if wrong:
        raise ValueError(f"--arch: got {' '.join(wrong)}, expected numbers such as 8.0 or 9.0+PTX, or all")
    if "all" not in names:
        return names
    *others, newest = toolchain.find_cuda_toolkit().architectures()
    return [*others, f"{newest}+PTX"]
