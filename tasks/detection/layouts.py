"""Where the published data sets keep their pictures and annotations.

A table: one row a layout. `datasets.py` reads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from internimage.tasks.detection.annotations import Annotations
from internimage.tasks.detection.coco_json import CocoJson
from internimage.tasks.detection.crowd_human import CrowdHuman
from internimage.tasks.detection.open_images import OpenImages
from internimage.tasks.detection.voc_xml import VocXml

Metric = Literal["coco", "lvis", "voc", "crowd_human", "open_images"]


class Part(Protocol):
    """A way to find and read the annotations of one split."""

    @property
    def marks(self) -> tuple[str, ...]:
        """Files that it is recognised by, relative to the root."""

    def read(self, root: Path) -> Annotations:
        """Read all.

        Raises:
            DatasetError: files are missing, damaged or hold something else; see `open_dataset`.
        """


@dataclass(frozen=True)
class Layout:
    """One way to lay out a data set.

    Attributes:
        summary: its files, for messages.
        metric: how results on it are measured.
        splits: what "train" and "val" consist of; of several ways, the first whose files are there counts.
    """

    summary: str
    metric: Metric
    splits: Mapping[str, tuple[Part, ...]]


def _own(split: str) -> tuple[Part, ...]:
    return (CocoJson(f"annotations/instances_{split}.json", (f"images/{split}", "images", split, "")),)


def _coco(split: str) -> tuple[Part, ...]:
    return (CocoJson(f"annotations/instances_{split}2017.json", (f"{split}2017", f"images/{split}2017")),)


def _roboflow(folder: str) -> tuple[Part, ...]:
    return (CocoJson(f"{folder}/_annotations.coco.json", (folder,)),)


def _lvis(split: str) -> tuple[Part, ...]:
    folders = ("", "images", "coco")
    return tuple(CocoJson(f"{folder}lvis_v1_{split}.json", folders) for folder in ("annotations/", ""))


def _objects365(split: str) -> tuple[Part, ...]:
    folders = (split, f"images/{split}", "")
    return tuple(CocoJson(f"{folder}zhiyuan_objv2_{split}.json", folders) for folder in ("annotations/", f"{split}/"))


def _voc(*lists: tuple[str, str]) -> tuple[Part, ...]:
    return tuple(VocXml(folder, lists) for folder in ("", "VOCdevkit/"))


def _crowd_human(split: str) -> tuple[Part, ...]:
    pictures = ("Images", f"{split}/Images", f"CrowdHuman_{split}/Images", f"CrowdHuman_{split}", split)
    return tuple(CrowdHuman(f"{folder}annotation_{split}.odgt", pictures) for folder in ("", "annotations/"))


def _open_images(split: str, boxes: str) -> tuple[Part, ...]:
    labels = f"{split}-annotations-human-imagelabels-boxable.csv"
    pictures = (split, f"images/{split}", f"OpenImages/{split}")
    return tuple(OpenImages(folder, boxes, labels, pictures) for folder in ("annotations/", ""))


_VOC0712 = _voc(("VOC2007", "trainval"), ("VOC2012", "trainval"))

# Where a folder could be of several layouts, the first is recognised.
LAYOUTS: Mapping[str, Layout] = {
    "coco_json": Layout(
        "annotations/instances_{train,val}.json in COCO's format, pictures in images/, images/{train,val}/, "
        "{train,val}/ or the folder itself",
        "coco",
        {"train": _own("train"), "val": _own("val")},
    ),
    "coco": Layout(
        "annotations/instances_{train,val}2017.json, {train,val}2017/ or images/{train,val}2017/ (COCO 2017)",
        "coco",
        {"train": _coco("train"), "val": _coco("val")},
    ),
    "roboflow": Layout(
        "{train,valid}/_annotations.coco.json and the pictures beside it (an export in COCO's format)",
        "coco",
        {"train": _roboflow("train"), "val": _roboflow("valid")},
    ),
    "objects365": Layout(
        "annotations/zhiyuan_objv2_{train,val}.json, {train,val}/patch*/ (Objects365 v2)",
        "coco",
        {"train": _objects365("train"), "val": _objects365("val")},
    ),
    "lvis": Layout(
        "annotations/lvis_v1_{train,val}.json, "
        "COCO's pictures in {train,val}2017/ or images/{train,val}2017/ (LVIS v1)",
        "lvis",
        {"train": _lvis("train"), "val": _lvis("val")},
    ),
    "lvis_minival": Layout(
        "annotations/lvis_v1_train.json and annotations/lvis_v1_minival_inserted_image_name.json, pictures as of lvis "
        "(LVIS v1; tested on the part of its val that lies in COCO's val2017)",
        "lvis",
        {"train": _lvis("train"), "val": _lvis("minival_inserted_image_name")},
    ),
    "voc": Layout(
        "VOC2007/ and VOC2012/, or VOCdevkit/ with them; trained on both trainval lists (PASCAL VOC 2007 + 2012)",
        "voc",
        {"train": _VOC0712, "val": _voc(("VOC2007", "test"))},
    ),
    "voc2007": Layout(
        "VOC2007/ or VOCdevkit/VOC2007/; trained on its trainval list (PASCAL VOC 2007)",
        "voc",
        {"train": _voc(("VOC2007", "trainval")), "val": _voc(("VOC2007", "test"))},
    ),
    "voc2012": Layout(
        "VOC2012/ or VOCdevkit/VOC2012/; its train and val lists (PASCAL VOC 2012)",
        "voc",
        {"train": _voc(("VOC2012", "train")), "val": _voc(("VOC2012", "val"))},
    ),
    "voc2012_test": Layout(
        "VOC2007/ and VOC2012/, or VOCdevkit/ with them; trained as voc, tested on VOC2012's test list, of which the "
        "annotations are not public: without them take voc, which tests on VOC2007's (PASCAL VOC 2007 + 2012)",
        "voc",
        {"train": _VOC0712, "val": _voc(("VOC2012", "test"))},
    ),
    "crowd_human": Layout(
        "annotation_{train,val}.odgt, here or in annotations/; Images/ or {train,val}/Images/ (CrowdHuman)",
        "crowd_human",
        {"train": _crowd_human("train"), "val": _crowd_human("val")},
    ),
    "open_images": Layout(
        "oidv6-train-annotations-bbox.csv, validation-annotations-bbox.csv and class-descriptions-boxable.csv, here or "
        "in annotations/; pictures in {train,validation}/ or images/{train,validation}/ (Open Images v6)",
        "open_images",
        {
            "train": _open_images("train", "oidv6-train-annotations-bbox.csv"),
            "val": _open_images("validation", "validation-annotations-bbox.csv"),
        },
    ),
}
