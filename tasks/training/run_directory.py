"""The folder of a run: what it does, where it was started, how it went."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from internimage._version import __version__
from internimage.tasks.training.recipe import Recipe, RecipeType, differences, read_recipe, recipe_json
from internimage.weight_files import written_whole

RECIPE, ENVIRONMENT, LOG, CHECKPOINTS = "recipe.json", "environment.json", "log.jsonl", "checkpoints"
BEST = "best.safetensors"

LogRow = dict[str, Any]


class RunDirectory:
    """A run's folder.

    | file | holds |
    |---|---|
    | `recipe.json` | all values of the recipe; `--recipe recipe.json` repeats the run |
    | `environment.json` | command line, versions, git revision, machine, of each start |
    | `log.jsonl` | a JSON object a line: of every `log_steps`-th step, and of each evaluation |
    | `checkpoints/` | the newest checkpoints, to resume from |
    | `best.safetensors` | the best weights so far, alone |

    Args:
        path: made when it doesn't exist.
        writes: whether this process writes; of several only the main one does.
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path = path
        self._writes = writes
        self._board: Any = None

    def start(self, recipe: Recipe) -> None:
        """Write down what is about to run, or check that the run to go on with has the same recipe.

        Raises:
            ValueError: the folder holds a run with another recipe, or something else.
        """
        if not self._writes:  # the others may not look while the main process is writing
            return
        known = self.path / RECIPE
        if known.is_file():
            changed = differences(read_recipe(type(recipe), known), recipe)
            if changed:
                raise ValueError(
                    f"{self.path} holds a run with another recipe ({'; '.join(changed)}); give another --output, or "
                    f"the values of the run: --recipe {known}"
                )
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise ValueError(f"{self.path} is not empty and holds no run (no {RECIPE}); give another --output")
        self.path.mkdir(parents=True, exist_ok=True)
        with written_whole(known) as temporary:
            temporary.write_text(recipe_json(recipe))
        starts = json.loads(text) if (text := _text(self.path / ENVIRONMENT)) else []
        with written_whole(self.path / ENVIRONMENT) as temporary:
            temporary.write_text(json.dumps([*starts, environment()], indent=2) + "\n")

    def rewind(self, step: int) -> None:
        """Drop the lines of steps after `step`, which are about to be taken again, and open TensorBoard's log."""
        if not self._writes:
            return
        rows = [row for row in self.rows() if row["step"] <= step]
        with written_whole(self.path / LOG) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:  # optional
            return
        self._board = SummaryWriter(str(self.path / "tensorboard"), purge_step=step + 1)

    def log(self, row: LogRow) -> None:
        """Append a line; `row` has at least "step"."""
        if not self._writes:
            return
        with (self.path / LOG).open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self._board is not None:
            for name, number in row.items():
                if isinstance(number, (int, float)) and name != "step":
                    self._board.add_scalar(name, number, row["step"])
            self._board.flush()

    def rows(self) -> list[LogRow]:
        """The lines of the log; one that was cut off when the process died is left out."""
        rows = []
        for line in (_text(self.path / LOG) or "").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return rows


def read_run_recipe(kind: type[RecipeType], path: Path) -> RecipeType:
    """The recipe of a run.

    Raises:
        ValueError: the folder holds no run.
    """
    if not (path / RECIPE).is_file():
        raise ValueError(f"{path} holds no run: it has no {RECIPE}")
    return read_recipe(kind, path / RECIPE)


def weights_file(path: Path) -> Path:
    """The best weights of a run, where the path is a run's folder; else the path.

    Raises:
        ValueError: the run has none yet.
    """
    if path.is_dir() and (path / RECIPE).is_file():
        if not (path / BEST).is_file():
            raise ValueError(f"{path} has no {BEST} yet: training has not come to its first evaluation")
        return path / BEST
    return path


def environment() -> dict[str, Any]:
    """Where and how this process was started."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "internimage": __version__,
        "git_revision": _git_revision(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.platform()}, {torch.get_num_threads()} threads",
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _git_revision() -> str | None:
    """The revision of the checkout that this file lies in, "+" behind it where files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
