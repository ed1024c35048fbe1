"""Recipes: all values that decide what a training run does, as data; read from a table, a file and the command line."""

# ruff: noqa: RUF009  (`value` makes fields)

from __future__ import annotations

import argparse
import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

Schedule = Literal["cosine", "cosine-unshifted", "polynomial", "step"]
Precision = Literal["float32", "bfloat16", "float16"]
Strategy = Literal["ddp", "fsdp"]
Compile = Literal["auto", "blocks", "off"]

RecipeType = TypeVar("RecipeType", bound="Recipe")


def value(default: Any = MISSING, *, help: str, free: bool = False) -> Any:
    """A value of a recipe.

    Args:
        default: without it every recipe must say.
        help: what the command line says of it.
        free: it changes how a run computes but not what, so that a run may go on with another one.
    """
    return field(default=default, metadata={"help": help, "free": free}, kw_only=True)


@dataclass(frozen=True)
class Recipe:
    """The values that every task has. A task adds its own in a subclass.

    Raises:
        ValueError: a value out of its range; the message names the option of the command line.
    """

    model: str = value(help="a name of internimage.list_models()")
    init: str | None = value(None, help="weights to start from: a released name, a file or a folder")
    epochs: int | None = value(None, help="passes over the training data; instead of STEPS")
    steps: int | None = value(None, help="steps of the whole run; instead of EPOCHS")
    batch_size: int = value(help="images in a step, over all processes and accumulated parts")
    accumulation: int = value(1, help="parts that a process computes one after the other in a step")
    learning_rate: float = value(help="of the optimiser at its peak, for LR_BATCH images a step")
    warmup_epochs: float = value(0.0, help="epochs of linear growth of the learning rate at the start")
    warmup_steps: int = value(0, help="steps of the same; instead of WARMUP_EPOCHS")
    warmup_lr: float = value(0.0, help="learning rate of the first step, for LR_BATCH images a step")
    min_lr: float = value(0.0, help="learning rate at the end, for LR_BATCH images a step")
    lr_batch: int | None = value(
        None, help="learning rates grow with BATCH_SIZE from this many images; none: they don't"
    )
    schedule: Schedule = value(
        "cosine", help="cosine-unshifted counts from step 0, not from the end of the warm-up, as the official code"
    )
    lr_drops: tuple[float, ...] = value((), help="epochs after which the step schedule takes a tenth")
    poly_power: float = value(1.0, help="exponent of the polynomial schedule")
    weight_decay: float = value(0.05, help="of AdamW, for all but biases and other vectors")
    beta2: float = value(0.999, help="second momentum of AdamW")
    clip_norm: float | None = value(5.0, help="largest norm of all gradients together")
    layer_decay: float | None = value(None, help="factor of the learning rate from a layer to the one before it")
    frozen_stages: tuple[int, ...] = value(
        (), help="stages of the backbone, from 0, that are not trained; 0 has the stem"
    )
    ema_decay: float | None = value(None, help="decay of the moving average of the weights")
    ema_warmup: int = value(0, help="steps in which the decay comes to (1 - 1/e) of itself; 0: at once")
    drop_path_rate: float | None = value(None, help="stochastic depth of the last layer; none: the variant's own")
    seed: int = value(0, help="of initialisation, order, augmentation and stochastic depth")
    sync_batch_norm: bool = value(False, help="batch statistics over all processes")
    precision: Precision = value("float32", help="of the arithmetic under autocast; float16 scales the loss")
    max_bad_steps: int = value(
        20, help="steps in a row with a loss or gradient that is not finite before the run stops"
    )
    streams: int = value(1, help="tar files read at once, each in its order; a divisor of the batch size")
    shuffle_buffer: int = value(10000, help="samples of a stream that are shuffled together")
    strategy: Strategy = value("ddp", help="how processes share the work: fsdp shards the weights too", free=True)
    grad_checkpointing: bool = value(False, help="recompute each block in the backward pass, to save memory", free=True)
    compile: Compile = value("auto", help="torch.compile of each block; auto: on CUDA", free=True)
    deterministic: bool = value(False, help="only deterministic kernels", free=True)
    workers: int = value(4, help="processes that load data, for each process that trains", free=True)
    save_steps: int | None = value(None, help="steps between checkpoints; none: one after each epoch", free=True)
    keep: int = value(2, help="newest checkpoints that are kept", free=True)
    eval_epochs: int = value(1, help="epochs between evaluations", free=True)
    eval_steps: int | None = value(None, help="steps between evaluations; instead of EVAL_EPOCHS", free=True)
    log_steps: int = value(20, help="steps between lines of the log", free=True)

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulation", "max_bad_steps", "streams", "shuffle_buffer", "keep"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("epochs", "steps", "eval_epochs", "eval_steps", "log_steps", "save_steps", "lr_batch"):
            self._check(name, getattr(self, name) is None or getattr(self, name) >= 1, "at least 1")
        for name in ("learning_rate", "warmup_lr", "min_lr", "warmup_epochs", "weight_decay", "workers", "seed"):
            self._check(name, getattr(self, name) >= 0, "at least 0")
        for name in ("layer_decay", "clip_norm"):
            self._check(name, getattr(self, name) is None or getattr(self, name) > 0, "above 0")
        for name in ("ema_decay", "drop_path_rate"):
            self._check(name, getattr(self, name) is None or 0 <= getattr(self, name) < 1, "in [0, 1)")
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                "give the length of the run in --epochs or in --steps, and the other as none; got --epochs "
                f"{self.epochs} and --steps {self.steps}"
            )
        self._check("warmup_epochs", self.epochs is None or self.warmup_epochs < self.epochs, "below --epochs")
        self._check("warmup_steps", 0 <= self.warmup_steps < (self.steps or math.inf), "at least 0 and below --steps")
        self._check("warmup_steps", not (self.warmup_steps and self.warmup_epochs), "0 beside --warmup-epochs")
        self._check("lr_drops", self.schedule == "step" or not self.lr_drops, "left away unless --schedule is step")
        self._check("ema_warmup", self.ema_warmup >= 0, "at least 0")
        self._check("frozen_stages", set(self.frozen_stages) <= {0, 1, 2, 3}, "of 0 to 3")
        self._check("accumulation", self.batch_size % self.accumulation == 0, f"a divisor of {self.batch_size}")
        self._check("streams", self.batch_size % self.streams == 0, f"a divisor of {self.batch_size}")

    def _check(self, name: str, right: bool, expected: str) -> None:
        if not right:
            raise ValueError(f"--{name.replace('_', '-')} must be {expected}, got {getattr(self, name)}")

    def total_steps(self, steps_per_epoch: int) -> int:
        """Of the whole run."""
        return self.steps or (self.epochs or 0) * steps_per_epoch

    @property
    def lr_factor(self) -> float:
        """What the batch size makes of the learning rates."""
        return 1.0 if self.lr_batch is None else self.batch_size / self.lr_batch


def add_recipe_arguments(parser: argparse.ArgumentParser, kind: type[Recipe], names: list[str]) -> None:
    """Add `--recipe`, `--print-recipe` and an option for each value of a recipe."""
    parser.add_argument(
        "--recipe", required=True, metavar="NAME", help=f"{', '.join(names)}, or the recipe.json of another run"
    )
    parser.add_argument("--print-recipe", action="store_true", help="show the resolved recipe as JSON and stop")
    group = parser.add_argument_group("values of the recipe, which replace those of --recipe")
    types = get_type_hints(kind)
    for row in sorted(fields(kind), key=lambda row: row.name):
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": row.metadata["help"], "dest": row.name}
        if types[row.name] is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= _option_type(types[row.name])
        group.add_argument(f"--{row.name.replace('_', '-')}", **options)


def recipe_from_arguments(
    kind: type[RecipeType], table: Mapping[str, RecipeType], arguments: argparse.Namespace
) -> RecipeType:
    """The recipe that `--recipe` names, with the values that stand on the command line.

    Raises:
        ValueError: an unknown name (the error lists the closest), a broken file, or a value out of its range.
    """
    if arguments.recipe in table:
        recipe = table[arguments.recipe]
    elif Path(arguments.recipe).is_file():
        recipe = read_recipe(kind, Path(arguments.recipe))
    else:
        close = difflib.get_close_matches(arguments.recipe, table, n=3, cutoff=0.3) or list(table)
        raise ValueError(f"--recipe {arguments.recipe}: no such recipe or file; did you mean {' or '.join(close)}?")
    names = {row.name for row in fields(kind)}
    return replace(recipe, **{name: v for name, v in vars(arguments).items() if name in names})


def read_recipe(kind: type[RecipeType], path: Path) -> RecipeType:
    """Read what `recipe_json` wrote.

    Raises:
        ValueError: not JSON, or values that are unknown, missing or of the wrong type.
    """
    try:
        values = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a recipe: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not a recipe: expected an object of values, got {type(values).__name__}")
    rows = {row.name: row for row in fields(kind)}
    types = get_type_hints(kind)
    for name, got in values.items():
        if name not in rows:
            close = difflib.get_close_matches(name, rows, n=1)
            raise ValueError(f"{path}: unknown value {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        values[name] = tuple(got) if isinstance(got, list) else got
        if not _fits(values[name], types[name]):
            raise ValueError(f"{path}: {name} must be {_type_name(types[name])}, got {got!r}")
    missing = [name for name, row in rows.items() if name not in values and _required(row)]
    if missing:
        raise ValueError(f"{path}: lacks {', '.join(missing)}")
    return kind(**values)


def recipe_json(recipe: Recipe) -> str:
    """All values as JSON, which `--recipe FILE` reads."""
    return json.dumps(asdict(recipe), indent=2) + "\n"


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Lines that say in which values two recipes differ, other than those that a run may change on its way."""
    return [
        f"--{row.name.replace('_', '-')}: {getattr(old, row.name)} before, {getattr(new, row.name)} now"
        for row in fields(old)
        if not row.metadata["free"] and getattr(old, row.name) != getattr(new, row.name)
    ]


def _required(row: Field[Any]) -> bool:
    return row.default is MISSING


def _option_type(annotation: Any) -> dict[str, Any]:
    """How argparse reads a value of a type: numbers, text, one of several words, several numbers, or "none"."""
    if get_origin(annotation) is Literal:
        return {"choices": get_args(annotation)}
    if get_origin(annotation) is tuple:
        return {"type": get_args(annotation)[0], "nargs": "*", "action": _AsTuple}
    if isinstance(annotation, UnionType):
        (inner,) = (part for part in get_args(annotation) if part is not NoneType)
        return {"type": _optional(inner), "metavar": f"{inner.__name__.upper()}|none"}
    return {"type": annotation, "metavar": annotation.__name__.upper()}


class _AsTuple(argparse.Action):
    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, tuple(values))


def _optional(parse: Any) -> Any:
    def parse_or_none(text: str) -> Any:
        return None if text.lower() == "none" else parse(text)

    parse_or_none.__name__ = parse.__name__  # argparse's message names it
    return parse_or_none


def _fits(got: Any, annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return got in get_args(annotation)
    if isinstance(annotation, UnionType):
        return any(_fits(got, part) for part in get_args(annotation))
    if get_origin(annotation) is tuple:
        return isinstance(got, tuple) and all(_fits(part, get_args(annotation)[0]) for part in got)
    if annotation is float:
        return isinstance(got, (int, float)) and not isinstance(got, bool)
    return isinstance(got, annotation) and (annotation is bool or not isinstance(got, bool))


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(get_args(annotation))}"
    return getattr(annotation, "__name__", str(annotation))
