"""`internimage shard`: tar shards for training from folders, CSV files or COCO captions; and what shards hold."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from internimage.tasks.images import ImageError, decode_image, read_file, resize_short_side
from internimage.tasks.pretraining.listing import Columns, Listed, list_coco, list_csv, list_folder
from internimage.tasks.pretraining.shard_statistics import Statistics
from internimage.tasks.training.samples import reason, worker_init
from internimage.tasks.training.shards import PICTURES, TarShards, existing_shards, numbered, write_shard
from internimage.weight_files import written_whole

EXAMPLES = """examples:
  internimage shard folder photos/train shards/train-%06d.tar --text "a photo of a {}"
  internimage shard csv pairs.csv shards/train-%06d.tar --images pictures --columns picture=path text=title
  internimage shard coco annotations/captions_train2017.json shards/train-%06d.tar --images train2017 --short-side 256
  internimage shard check shards

photos/train/ holds CLASS/*.jpg; a CSV file has a header with image (a path) and any of text, category, embedding (the
path of a .npy vector). Samples are shuffled. The same command again goes on where it was interrupted.
"""

_QUALITY = 92  # of JPEG files that are written anew

_Work = TypeVar("_Work")


@dataclass(frozen=True)
class _Job:
    """One shard to write."""

    path: Path
    first: int  # number of its first sample
    samples: tuple[Listed, ...]
    short_side: int | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=("folder", "csv", "coco", "check"), help="of the source; check: it is shards")
    parser.add_argument("source", type=Path, help="the folder or file")
    parser.add_argument(
        "pattern", nargs="?", type=Path, help="the shards to write, with a place for a number: shards/train-%%06d.tar"
    )
    parser.add_argument(
        "--images", type=Path, help="what the paths of CSV and COCO files are relative to (the folder of the file)"
    )
    parser.add_argument("--text", help='of each picture of a folder, {} stands for its category: "a photo of a {}"')
    names = [row.name for row in fields(Columns)]
    parser.add_argument(
        "--columns", nargs="+", default=[], metavar="WHAT=NAME", help=f"names of CSV columns: {', '.join(names)}"
    )
    parser.add_argument("--samples", type=int, default=5000, help="in a shard (5000)")
    parser.add_argument("--short-side", type=int, metavar="PIXELS", help="reduce larger pictures to this, as JPEG")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffle (0)")
    parser.add_argument("--workers", type=int, default=4, help="processes that read, check and write (4)")


def run(arguments: argparse.Namespace) -> int:
    """Write shards and print what they hold; 1 where no picture could be read."""
    for name in ("samples", "short_side", "workers"):
        given = getattr(arguments, name)
        if given is not None and given < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {given}")
    if arguments.kind == "check":
        shards = TarShards(arguments.source)
        chunks = [range(i, min(i + 500, len(shards))) for i in range(0, len(shards), 500)]
        statistics = _together(partial(count_samples, shards), chunks, arguments.workers)
    else:
        statistics = _write(arguments)
    print("\n".join(statistics.lines()))
    return 0 if statistics.samples else 1


def _write(arguments: argparse.Namespace) -> Statistics:
    if arguments.pattern is None:
        raise ValueError("shard: name the shards to write, with a place for their number: shards/train-%06d.tar")
    path_of = numbered(arguments.pattern)
    listed = _listed(arguments)
    order = np.random.default_rng(arguments.seed).permutation(len(listed)).tolist()
    jobs = [
        _Job(
            path_of(first // arguments.samples),
            first,
            tuple(listed[index] for index in order[first : first + arguments.samples]),
            arguments.short_side,
        )
        for first in range(0, len(order), arguments.samples)
    ]
    _start(arguments, len(listed))
    return _together(write_job, jobs, arguments.workers)


def _start(arguments: argparse.Namespace, count: int) -> None:
    """Note what is being written beside the shards, or see that those that are there are of the same."""
    names = ("kind", "source", "images", "text", "columns", "samples", "short_side", "seed")
    plan = {name: str(getattr(arguments, name)) for name in names} | {"pictures": str(count)}
    note = arguments.pattern.with_suffix(".json")
    existing = existing_shards(arguments.pattern)
    if existing and (not note.is_file() or json.loads(note.read_text("utf-8")) != plan):
        raise FileExistsError(
            f"{existing[0]} is there, and was not written by this command from this source; delete such shards first, "
            "or use another folder"
        )
    note.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(note) as temporary:
        temporary.write_text(json.dumps(plan, indent=1) + "\n", "utf-8")


def _listed(arguments: argparse.Namespace) -> list[Listed]:
    images = arguments.images or arguments.source.parent
    if arguments.kind == "folder":
        return list_folder(arguments.source, arguments.text)
    if arguments.kind == "coco":
        return list_coco(arguments.source, images)
    known = asdict(Columns())
    for entry in arguments.columns:
        what, equals, name = entry.partition("=")
        if what not in known or not equals:
            raise ValueError(f"--columns {entry}: expected WHAT=NAME, WHAT one of {', '.join(known)}")
        known[what] = name
    return list_csv(arguments.source, images, Columns(**known))


def write_job(job: _Job) -> Statistics:
    """Write one shard, or count the samples of the one that is there."""
    statistics = Statistics()
    if job.path.is_file():  # whole, from an earlier run
        shards = TarShards([job.path])
        return count_samples(shards, range(len(shards)))
    write_shard(job.path, _samples(job, statistics))
    return statistics


def _samples(job: _Job, statistics: Statistics) -> Iterator[tuple[str, dict[str, bytes]]]:
    for number, listed in enumerate(job.samples, job.first):
        try:
            content = read_file(listed.picture)
            picture = decode_image(content, str(listed.picture))
            extension = listed.picture.suffix.lower().removeprefix(".")
            large = job.short_side is not None and min(picture.shape[:2]) > job.short_side
            if large:
                picture = resize_short_side(picture, job.short_side or 0)
            if large or extension not in PICTURES:
                extension = "jpg"
                bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
                content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
            members = {extension: content}
            if listed.embedding is not None:
                members["emb"] = listed.embedding.read_bytes()
        except (ImageError, OSError) as error:
            statistics.unreadable.append(reason(error))
            continue
        if listed.texts:
            members["txt"] = "\n".join(" ".join(text.split()) for text in listed.texts).encode()
        if listed.category is not None:
            members["cls"] = listed.category.encode()
        statistics.add(members, picture)
        yield f"{number:09d}", members


def count_samples(shards: TarShards, indices: range) -> Statistics:
    """Read and decode samples of shards, and count them.

    Raises:
        ShardError: a shard is damaged, or a sample has no picture.
    """
    statistics = Statistics()
    for index in indices:
        members = shards[index]
        try:
            picture = decode_image(shards.read(index, *PICTURES), shards.name(index))
        except ImageError as error:
            statistics.unreadable.append(str(error))
            continue
        statistics.add(members, picture)
    return statistics


def _together(count: Callable[[_Work], Statistics], work: Sequence[_Work], workers: int) -> Statistics:
    """The sum of what several processes count."""
    whole = Statistics()
    with ProcessPoolExecutor(workers, initializer=worker_init, initargs=(0,)) as pool:
        for part in tqdm(pool.map(count, work), "shards", len(work), unit=" parts", disable=None):
            whole.merge(part)
    return whole
