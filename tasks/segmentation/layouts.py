"""Where the published data sets keep their pictures and labels, and what the numbers in the label files mean.

A table: one row a layout. `datasets.py` reads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from internimage.tasks.images import SUFFIXES
from internimage.tasks.segmentation.label_values import LabelValues, reduced


@dataclass(frozen=True)
class LabelFiles:
    """Label files in one folder.

    Attributes:
        folder: relative to the root; folders below it count, too.
        suffix: a label file is called as its picture, but for the picture's suffix this stands.
        values: what stands for which class; None: as classes.json says.
    """

    folder: str
    suffix: str
    values: LabelValues | None


@dataclass(frozen=True)
class Part:
    """Pictures in one folder, and their labels.

    Attributes:
        images: the folder, relative to the root; folders below it count, too.
        suffixes: ends of the pictures' names, in small letters.
        labels: where labels may lie; of several, those that most files are there of, or the first.
        listed: a file with the names of the pictures, without suffix, one a line; None: all in the folder.
    """

    images: str
    suffixes: tuple[str, ...]
    labels: tuple[LabelFiles, ...]
    listed: str | None = None


@dataclass(frozen=True)
class Layout:
    """One way to lay out a data set.

    Attributes:
        summary: its files, for messages.
        classes: a name for `classes_of`; None: classes.json in the root names them.
        splits: what "train" and "val" consist of.
    """

    summary: str
    classes: str | None
    splits: Mapping[str, tuple[Part, ...]]


_PICTURES = tuple(sorted(SUFFIXES))


def _folder(split: str) -> tuple[Part, ...]:
    return (Part(f"images/{split}", _PICTURES, (LabelFiles(f"labels/{split}", ".png", None),)),)


def _ade20k(split: str) -> tuple[Part, ...]:
    return (Part(f"images/{split}", (".jpg",), (LabelFiles(f"annotations/{split}", ".png", reduced(150)),)),)


LAYOUTS: Mapping[str, Layout] = {
    "folder": Layout(
        "images/{train,val}/**, labels/{train,val}/** with a PNG of the same name for each, classes.json",
        None,
        {split: _folder(split) for split in ("train", "val")},
    ),
    "ade20k": Layout(
        "{images,annotations}/{training,validation} of ADEChallengeData2016",
        "ade20k",
        {"train": _ade20k("training"), "val": _ade20k("validation")},
    ),
}
