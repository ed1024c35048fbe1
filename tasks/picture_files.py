"""Picture files of a command line: found by path, folder or wildcard, read, and drawn ones named. Knows no task."""

import glob
import sys
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path

from tqdm import tqdm

from internimage.tasks.images import SUFFIXES, Image, ImageError, read_image


def find_images(arguments: Sequence[str], suffixes: Set[str] = SUFFIXES) -> list[str]:
    """Files named by paths, by folders (the pictures in them, at any depth) and by wildcards, in order, none twice.

    A path that doesn't exist is kept, so that reading reports it.

    Args:
        arguments: the names.
        suffixes: of the files in folders that count, in small letters.

    Raises:
        ValueError: a folder holds no picture, or a wildcard fits no file.
    """
    found: list[str] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            files = sorted(str(p) for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
            if not files:
                raise ValueError(f"{argument}: the folder holds no picture ({', '.join(sorted(suffixes))})")
        elif not path.exists() and glob.has_magic(argument):
            matches = glob.iglob(argument, recursive=True)  # noqa: PTH207  (pathlib can't glob an absolute pattern)
            files = sorted(name for name in matches if Path(name).is_file())
            if not files:
                raise ValueError(f"{argument}: no file fits this wildcard")
        else:
            files = [argument]
        found += files
    return list(dict.fromkeys(found))


def read_images(paths: Iterable[str]) -> Iterator[tuple[str, Image]]:
    """The files that can be read, with their names; of the others the reason goes to standard error."""
    for path in paths:
        try:
            yield path, read_image(path)
        except ImageError as error:
            tqdm.write(f"internimage: {error}", file=sys.stderr)


def annotation_paths(paths: Sequence[str], folder: Path) -> dict[str, Path]:
    """Where to write the annotated picture of each file: its own name, numbered where two have the same."""
    targets: dict[str, Path] = {}
    used: set[str] = set()
    for path in paths:
        stem = name = Path(path).stem
        number = 1
        while name in used:
            number += 1
            name = f"{stem}-{number}"
        used.add(name)
        targets[path] = folder / f"{name}.png"
    return targets


def prediction_paths(paths: Sequence[str], folder: Path) -> dict[str, Path]:
    """The same for what a model says of files, in a folder of its own, which is made.

    Raises:
        ValueError: a file lies in the folder, where results could take the place of it or of what belongs to it.
    """
    for path in paths:
        if Path(path).parent.resolve() == folder.resolve():
            raise ValueError(
                f"{path} lies in the folder for results, {folder}, and could be replaced; give another one"
            )
    folder.mkdir(parents=True, exist_ok=True)
    return annotation_paths(paths, folder)
