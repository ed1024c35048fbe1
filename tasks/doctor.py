"""`internimage doctor`: what is installed, what is built, and what to install for the rest."""

import argparse

from internimage import doctor

EXAMPLES = """examples:
  internimage doctor            report, changing nothing
  internimage doctor --build    build the kernels too, if they aren't built yet
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--build", action="store_true", help="build the kernels if they aren't built yet")


def run(arguments: argparse.Namespace) -> int:
    print(doctor.report(build=arguments.build))
    return 0
