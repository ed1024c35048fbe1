"""Devices: the `--device` option of the commands, their clock, and how much memory was used."""

import argparse
import sys
import time

import torch


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps... (default: cuda if there, else cpu)")


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA where it is available, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, by device
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name}: not available here ({reason}); use --device cpu or auto") from error
    return device


def peak_memory_mib(device: torch.device) -> float:
    """The most memory that this process has had: of the CUDA device in tensors, else of the machine; in MiB.

    0 where the system doesn't tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def clock_s(device: torch.device) -> float:
    """The time in seconds, when all that was asked of the device is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
