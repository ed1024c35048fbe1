"""Where the time of a forward pass goes: a row for each kind of layer."""

import re
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from internimage.tasks.devices import clock_s

_SHOWN = 0.005  # of the whole time; rows below are summed up in one


@dataclass
class Row:
    """What the modules of one name take in a forward pass, without those inside them."""

    name: str
    calls: int
    seconds: float
    flops: int


def profile(model: nn.Module, images: Tensor, repeats: int) -> list[Row]:
    """Rows for the modules of a model, those of a stage's blocks together, the slowest first.

    A module's time is its own: what the modules that it calls take counts for them.
    """
    flops = _flops(model, images)
    passes = []
    for _ in range(repeats):
        spent: dict[str, float] = {}
        calls: dict[str, int] = {}
        with _timed(model, images.device, spent, calls):
            model(images)
        passes.append(spent)
    rows = [
        Row(name or "(the model itself)", calls[name], statistics.median(p[name] for p in passes), flops.get(name, 0))
        for name in calls
    ]
    return sorted(rows, key=lambda row: -row.seconds)


def table(rows: list[Row]) -> list[str]:
    """The rows as lines of text."""
    whole = sum(row.seconds for row in rows)
    shown = [row for row in rows if row.seconds >= _SHOWN * whole]
    rest = [row for row in rows if row.seconds < _SHOWN * whole]
    if rest:
        seconds, flops = sum(row.seconds for row in rest), sum(row.flops for row in rest)
        shown.append(Row(f"{len(rest)} smaller ones", sum(row.calls for row in rest), seconds, flops))
    shown.append(Row("together", sum(row.calls for row in rows), whole, sum(row.flops for row in rows)))
    width = max(len(row.name) for row in shown)
    lines = [f"{'layer':<{width}}  calls        ms  share    GFLOP  GFLOP/s"]
    for row in shown:
        speed = f"{row.flops / 1e9:9.3f}{row.flops / 1e9 / row.seconds:9.0f}" if row.flops else ""
        share = 100 * row.seconds / whole
        lines.append(f"{row.name:<{width}}{row.calls:7d}{1e3 * row.seconds:10.2f}{share:6.1f}%{speed}".rstrip())
    return lines


def _flops(model: nn.Module, images: Tensor) -> dict[str, int]:
    """Operations of each kind of module, without those of the modules that it calls."""
    with FlopCounterMode(display=False) as counter:
        model(images)
    root = type(model).__name__
    counts = {name: sum(count.values()) for name, count in counter.get_flop_counts().items() if name != "Global"}
    found: dict[str, int] = {}
    for counted, count in counts.items():
        caller = counted.rpartition(".")[0]
        while caller and caller not in counts:  # a list of modules is not called itself
            caller = caller.rpartition(".")[0]
        for name, change in ((counted, count), (caller, -count)):
            kind = _kind(name.removeprefix(root).removeprefix("."))
            found[kind] = found.get(kind, 0) + change * bool(name)
    return found


def _kind(name: str) -> str:
    return re.sub(r"\bblocks\.\d+", "blocks.*", name)


@contextmanager
def _timed(model: nn.Module, device: torch.device, spent: dict[str, float], calls: dict[str, int]) -> Iterator[None]:
    """Add up the seconds and calls of each kind of module while the block runs."""
    inside: list[float] = []  # seconds of the modules called so far by each module that is running
    starts: list[float] = []

    def enter(*_: object) -> None:
        inside.append(0.0)
        starts.append(clock_s(device))

    def leave(kind: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            took = clock_s(device) - starts.pop()
            spent[kind] = spent.get(kind, 0.0) + took - inside.pop()
            calls[kind] = calls.get(kind, 0) + 1
            if inside:
                inside[-1] += took

        return hook

    handles = []
    for name, module in model.named_modules():
        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave(_kind(name)))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
