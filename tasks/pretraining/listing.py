"""What pictures there are, with texts, categories and embeddings: in folders, CSV files and COCO's captions."""

from __future__ import annotations

import csv
import json
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from internimage.tasks.folders import DatasetError, files_below
from internimage.tasks.images import SUFFIXES


@dataclass(frozen=True)
class Listed:
    """A picture that is to be stored, and what is known of it."""

    picture: Path
    texts: tuple[str, ...] = ()
    category: str | None = None
    embedding: Path | None = None  # a vector as .npy


@dataclass(frozen=True)
class Columns:
    """What the columns of a CSV file are called; all but the first may be absent."""

    picture: str = "image"
    text: str = "text"
    category: str = "category"
    embedding: str = "embedding"


def list_folder(folder: Path, text: str | None = None) -> list[Listed]:
    """The pictures below a folder, sorted; the folder that one lies in is its category.

    Args:
        folder: FOLDER/CLASS/**/*.jpg, or FOLDER/*.jpg without categories.
        text: with {} for the name of the category, such as "a photo of a {}"; underscores become spaces.

    Raises:
        DatasetError: no picture, or a text for pictures that have no category.
    """
    names = sorted(map(os.fsdecode, files_below(os.fsencode(folder), tuple(map(os.fsencode, SUFFIXES)))))
    if not names:
        raise DatasetError(f"{folder}: holds no picture ({', '.join(sorted(SUFFIXES))})")
    found = []
    for name in names:
        category = name.split("/")[0] if "/" in name else None
        if text is not None and category is None:
            raise DatasetError(f"{folder / name}: lies in no folder of a category, so {text!r} can't be filled in")
        texts = () if text is None or category is None else (text.replace("{}", category.replace("_", " ")),)
        found.append(Listed(folder / name, texts, category))
    return found


def list_csv(file: Path, images: Path, columns: Columns | None = None) -> list[Listed]:
    """The rows of a CSV or TSV file with a header.

    Args:
        file: tabs separate where its name ends in .tsv.
        images: what its paths are relative to.
        columns: their names.

    Raises:
        DatasetError: the column of pictures is missing, or empty in a row.
    """
    columns = columns or Columns()
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream, delimiter="\t" if file.suffix == ".tsv" else ",")
        if columns.picture not in (reader.fieldnames or ()):
            raise DatasetError(
                f"{file}: has no column {columns.picture!r}, but {', '.join(reader.fieldnames or ())}; name it: "
                "--columns picture=NAME"
            )
        found = []
        for row in reader:
            if not row[columns.picture]:
                raise DatasetError(f"{file}, line {reader.line_num}: its {columns.picture} is empty, expected a path")
            embedding = row.get(columns.embedding)
            found.append(
                Listed(
                    images / row[columns.picture],
                    (text,) if (text := row.get(columns.text)) else (),
                    row.get(columns.category) or None,
                    images / embedding if embedding else None,
                )
            )
    return found


def list_coco(file: Path, images: Path) -> list[Listed]:
    """The pictures of a file of captions in COCO's format, each with all its captions.

    Args:
        file: with "images" (id, file_name) and "annotations" (image_id, caption).
        images: the folder of the pictures.

    Raises:
        DatasetError: the file isn't of that format.
    """
    try:
        content = json.loads(file.read_text("utf-8"))
        captions: dict[int, list[str]] = defaultdict(list)
        for row in content["annotations"]:
            captions[row["image_id"]].append(" ".join(row["caption"].split()))
        return [Listed(images / row["file_name"], tuple(captions[row["id"]])) for row in content["images"]]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f'{file}: not in COCO\'s format of captions: {error!r}; expected {{"images": [{{"id", "file_name"}}], '
            '"annotations": [{"image_id", "caption"}]}'
        ) from error
