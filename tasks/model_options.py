"""The options that detection and segmentation share: the model, how it looks at pictures, what evaluation writes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from internimage.tasks import charts
from internimage.tasks.devices import add_device_argument
from internimage.tasks.named_models import Classifying
from internimage.tasks.resizing import Size
from internimage.tasks.training.run_directory import weights_file
from internimage.weight_files import metadata

Model = TypeVar("Model", bound=Classifying)


def add_source_options(parser: argparse.ArgumentParser, lister: str, default: str) -> None:
    """Add what chooses the model: its name, its weights, its classes.

    Args:
        parser: to add them to.
        lister: the function that lists the names.
        default: the name of the model where nothing is given.
    """
    parser.add_argument("--model", help=f"a name of {lister}() ({default}, or what --checkpoint says of itself)")
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="a run's folder, or weights; without it the released ones are downloaded"
    )
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="classes.json of a checkpoint that doesn't say (the model's)"
    )


def add_evaluation_options(parser: argparse.ArgumentParser, *, files: str, drawn: str) -> None:
    """Add what an evaluation writes, and where it computes; see `check_evaluation_options`.

    Args:
        parser: to add them to.
        files: that the folder of --output gets.
        drawn: what --pictures shows of every picture.
    """
    parser.add_argument("--output", type=Path, metavar="DIR", help=f"write {files} there")
    parser.add_argument("--pictures", action="store_true", help=f"draw every picture with {drawn}, in DIR/pictures")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--workers", type=int, default=2, help="processes that load pictures, for each process (2)")
    add_device_argument(parser)


def check_evaluation_options(arguments: argparse.Namespace) -> None:
    """
    Raises:
        ValueError: options that can't be, or contradict each other.
        ImportError: matplotlib is missing, and charts are to be drawn.
    """
    if arguments.workers < 0:
        raise ValueError("--workers must be at least 0")
    if arguments.output:
        charts.require_matplotlib()
    elif arguments.pictures:
        raise ValueError("--pictures needs a folder to write to: give --output DIR")


def add_view_options(parser: argparse.ArgumentParser, verb: str) -> argparse._ArgumentGroup:
    """Add what decides how the model looks at a picture; returns the group, for more of it.

    Args:
        parser: to add them to.
        verb: what happens to several views.
    """
    group = parser.add_argument_group("how the model looks at a picture (default: as in its official test)")
    group.add_argument(
        "--test-scale",
        type=int,
        nargs="*",
        metavar="PIXELS",
        help="bounds of its long and short side; none: its own size",
    )
    group.add_argument("--scales", type=float, nargs="+", metavar="FACTOR", help=f"of the views to {verb}")
    group.add_argument("--flip", action=argparse.BooleanOptionalAction, help=f"{verb} with the mirrored views")
    return group


class ModelFile:
    """The weights that `--checkpoint` names, if it does, and what is written in them.

    Attributes:
        written: by training, beside the weights; empty where nothing is.
    """

    def __init__(self, checkpoint: str | None) -> None:
        self._checkpoint = checkpoint
        self._path = None if checkpoint is None else weights_file(Path(checkpoint))
        path = self._path
        told = path is not None and path.is_file() and path.suffix == ".safetensors"
        self.written: dict[str, str] = metadata(path) if told and path is not None else {}

    def load(self, create: Callable[..., Model], name: str, num_classes: int) -> Model:
        """The model with these weights, or the released ones where none are named.

        Args:
            create: `create_detector` and the like.
            name: of the model.
            num_classes: in the list of classes.

        Raises:
            ValueError: the model tells another number of classes apart.
        """
        if self._path is None:
            model = create(name, pretrained=True)
        else:
            source = self._path if self._path.exists() else self._checkpoint
            model = create(name, checkpoint=source, num_classes=num_classes)
        if model.num_classes != num_classes:
            raise ValueError(
                f"{name} tells {model.num_classes} classes apart, the list of classes has {num_classes}; give the list "
                "that it was trained on as --classes FILE"
            )
        return model


def pair(option: str, given: list[int] | None, default: Size | list[int] | None) -> Size | None:
    """Two numbers, or None where an option is given without any.

    Raises:
        ValueError: another number of numbers, or one below 1.
    """
    numbers = default if given is None else given
    if not numbers:
        return None
    if len(numbers) != 2 or min(numbers) < 1:
        raise ValueError(f"{option} takes two numbers of at least 1, or none, got {list(numbers)}")
    return numbers[0], numbers[1]
