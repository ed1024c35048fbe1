"""The `internimage` command. A subcommand's module is imported when that subcommand is asked for, so help is fast."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from internimage._version import __version__

# What a user can get wrong: files, arguments, missing parts, missing devices. Anything else is a bug: a traceback.
_USER_ERRORS = (ValueError, OSError, ImportError)


@dataclass(frozen=True)
class _Command:
    """A module with `EXAMPLES`, `add_arguments(parser)` and `run(arguments) -> exit status`."""

    module: str
    help: str


@dataclass(frozen=True)
class _TaskCommand:
    """A command that each task has its own form of; `default` is the task where none is named."""

    tasks: dict[str, _Command]
    help: str
    default: str | None = None


COMMANDS: dict[str, _Command | _TaskCommand] = {
    "demo": _Command("internimage.tasks.demo", "train, compile and deploy a small model on handwritten digits"),
    "predict": _TaskCommand(
        {
            "classification": _Command("internimage.tasks.classification.predict", "name what pictures show"),
            "segmentation": _Command("internimage.tasks.segmentation.predict", "tell what each pixel belongs to"),
            "detection": _Command("internimage.tasks.detection.predict", "find the objects of pictures and videos"),
        },
        "say what pictures show",
        default="classification",
    ),
    "train": _TaskCommand(
        {
            "pretraining": _Command("internimage.tasks.pretraining.train", "pre-train an encoder by a recipe"),
            "classification": _Command("internimage.tasks.classification.train", "train a classifier by a recipe"),
            "segmentation": _Command("internimage.tasks.segmentation.train", "train a segmentor by a recipe"),
            "detection": _Command("internimage.tasks.detection.train", "train a detector by a recipe"),
        },
        "train a model by a recipe",
    ),
    "eval": _TaskCommand(
        {
            "classification": _Command(
                "internimage.tasks.classification.evaluate", "measure how well a classifier does"
            ),
            "segmentation": _Command("internimage.tasks.segmentation.evaluate", "measure how well a segmentor does"),
            "detection": _Command("internimage.tasks.detection.evaluate", "measure how well a detector does"),
        },
        "measure how well a model does on labelled data",
    ),
    "shard": _Command("internimage.tasks.pretraining.shard", "write pictures with texts and classes to tar shards"),
    "plan": _Command("internimage.tasks.pretraining.plan", "tell what a run of pre-training would take"),
    "export": _Command("internimage.tasks.export", "write a folder that runs a model elsewhere"),
    "run": _Command("internimage.tasks.run_artifact", "say what pictures show, with an exported model alone"),
    "consolidate": _Command("internimage.tasks.consolidate", "make one weights file of a sharded checkpoint"),
    "bench": _Command("internimage.tasks.bench", "measure how fast a model runs here, and where its time goes"),
    "doctor": _Command("internimage.tasks.doctor", "show what is installed and built, and what is missing"),
    "build-ops": _Command("internimage.tasks.build_ops", "build the operators' library for processes without Python"),
}

_EXAMPLES = """examples:
  internimage demo
  internimage predict photo.jpg --model internimage_t
  internimage train classification --recipe quick --data photos --output runs/photos
  internimage train classification --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the result is the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

    With `--debug` or environment variable INTERNIMAGE_DEBUG, errors come with their traceback.
    """
    argv = _with_default_task(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv or bool(os.environ.get("INTERNIMAGE_DEBUG"))
    try:
        arguments = _parser(argv).parse_args(argv)  # exits where no command is named
        status: int = import_module(arguments.module).run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        if debug:
            raise
        print("interrupted", file=sys.stderr)
        return 130
    except _USER_ERRORS as error:
        if debug:
            raise
        print(f"internimage: error: {_one_line(error)}", file=sys.stderr)
        return 1
    return status


def _with_default_task(argv: Sequence[str]) -> list[str]:
    """The words of the command line, with the task put in where it may be left away and is."""
    words = list(argv)
    place = next((i for i, word in enumerate(words) if not word.startswith("-")), len(words))
    command = COMMANDS.get(words[place]) if place < len(words) else None
    if (
        isinstance(command, _TaskCommand)
        and command.default
        and words[place + 1 : place + 2] not in ([task] for task in command.tasks)
    ):
        words.insert(place + 1, command.default)
    return words


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The whole parser; the arguments of the named command alone, as those of the others would need their modules."""
    named = [word for word in argv if not word.startswith("-")]
    parser = argparse.ArgumentParser(
        prog="internimage",
        description="InternImage: image recognition with deformable convolutions.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"internimage {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        if isinstance(command, _Command):
            _add_command(subparsers, name, command, fill=named[:1] == [name])
            continue
        group = _add_parser(subparsers, name, command.help)
        group.epilog = "examples:\n" + "".join(f"  internimage {name} {task} --help\n" for task in command.tasks)
        tasks = group.add_subparsers(dest="task", metavar="TASK", required=True)
        for task, form in command.tasks.items():
            _add_command(tasks, task, form, fill=named[:2] == [name, task])
    return parser


def _add_command(subparsers: Any, name: str, command: _Command, *, fill: bool) -> None:
    parser = _add_parser(subparsers, name, command.help)
    parser.set_defaults(module=command.module)
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    if fill:
        module = import_module(command.module)
        parser.epilog = module.EXAMPLES
        module.add_arguments(parser)


def _add_parser(subparsers: Any, name: str, help: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=help,
        description=help.capitalize() + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = str(error)
    if "Original Traceback" in text:  # of a process that loads data
        text = text.rpartition(f"{type(error).__name__}: ")[2]
    return " ".join(text.split()) or type(error).__name__
