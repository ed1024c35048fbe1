"""The `internimage` command. A subcommand's module is imported when that subcommand is asked for, so help is fast."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from internimage._version import __version__

# What a user can get wrong: files, arguments, missing parts, missing devices. Anything else is a bug: a traceback.
_USER_ERRORS = (ValueError, OSError, ImportError)


@dataclass(frozen=True)
class _Command:
    """A module with `EXAMPLES`, `add_arguments(parser)` and `run(arguments) -> exit status`."""

    module: str
    help: str


COMMANDS = {
    "demo": _Command("internimage.tasks.demo", "train, compile and deploy a small model on handwritten digits"),
    "predict": _Command("internimage.tasks.classification.predict", "name what pictures show"),
    "bench": _Command("internimage.tasks.bench", "measure how fast a model runs here, and where its time goes"),
    "doctor": _Command("internimage.tasks.doctor", "show what is installed and built, and what is missing"),
    "build-ops": _Command("internimage.tasks.build_ops", "build the operators' library for processes without Python"),
}

_EXAMPLES = """examples:
  internimage demo
  internimage predict photo.jpg --model internimage_t
  internimage predict --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the result is the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

    With `--debug` or environment variable INTERNIMAGE_DEBUG, errors come with their traceback.
    """
    argv = sys.argv[1:] if argv is None else argv
    name = next((word for word in argv if not word.startswith("-")), None)
    debug = "--debug" in argv or bool(os.environ.get("INTERNIMAGE_DEBUG"))
    try:
        arguments = _parser(name).parse_args(argv)  # exits where no command is named
        status: int = import_module(COMMANDS[arguments.command].module).run(arguments)
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


def _parser(name: str | None) -> argparse.ArgumentParser:
    """The whole parser, with the arguments of one subcommand: those of the others would need their modules."""
    parser = argparse.ArgumentParser(
        prog="internimage",
        description="InternImage: image recognition with deformable convolutions.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"internimage {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command, row in COMMANDS.items():
        subparser = subparsers.add_parser(
            command,
            help=row.help,
            description=row.help.capitalize() + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        subparser.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )
        if command == name:
            module = import_module(row.module)
            subparser.epilog = module.EXAMPLES
            module.add_arguments(subparser)
    return parser


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
