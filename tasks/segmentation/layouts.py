"""Where the published data sets keep their pictures and labels, and what the numbers in the label files mean.

A table: one row a layout. `datasets.py` reads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from internimage.tasks.images import SUFFIXES
from internimage.tasks.segmentation.label_values import LabelValues, mapped, plain, reduced


@dataclass(frozen=True)
class LabelFiles:
    """Label files in one folder.

    Attributes:
        folder: relative to the root; folders below it count, too.
        suffix: a label file is called as its picture, but for the picture's suffix this stands.
        values: what stands for which class; None: the class itself, or as classes.json says.
    """

    folder: str
    suffix: str
    values: LabelValues | None


@dataclass(frozen=True)
class Part:
    """Pictures in one folder, and their labels.

    Attributes:
        images: the folder, relative to the root; folders below it count, too.
        suffixes: ends of the pictures' names; letters may be small or capital.
        labels: where labels may lie; of several places, the first that holds any counts.
        listed: a file with the names of the pictures, without suffix, one a line; None: all in the folder.
        spare_labels: labels without pictures are no fault.
    """

    images: str
    suffixes: tuple[str, ...]
    labels: tuple[LabelFiles, ...]
    listed: str | None = None
    spare_labels: bool = False


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

# Cityscapes: ids of its 34 labels that have a class of the benchmark, in the order of the classes.
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_CITYSCAPES = mapped({id_: label for label, id_ in enumerate(_CITYSCAPES_IDS)}, set(range(34)) - {*_CITYSCAPES_IDS})

# Mapillary Vistas: ids of its 66 labels that are pooled into each class of Cityscapes.
_POOLED_IDS = (
    (13, 24, 41), (2, 15), (17,), (6,), (3,), (45, 47), (48,), (50,), (30,), (29,), (27,), (19,), (20, 21, 22),
    (55,), (61,), (54,), (58,), (57,), (52,),
)  # fmt: skip
_POOLED = {id_: label for label, ids in enumerate(_POOLED_IDS) for id_ in ids}
_MAPILLARY_19 = mapped(_POOLED, set(range(66)) - {*_POOLED})

# COCO-Stuff: ids of its classes, things up to 90, stuff from 92. Eleven are used by neither.
_COCO_IDS = sorted(set(range(1, 183)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91})
_COCO_STUFF_10K = mapped({id_: label for label, id_ in enumerate(_COCO_IDS)}, [0])
_COCO_STUFF_164K = mapped({id_ - 1: label for label, id_ in enumerate(_COCO_IDS)}, [])


def _folder(split: str) -> tuple[Part, ...]:
    return (Part(f"images/{split}", _PICTURES, (LabelFiles(f"labels/{split}", ".png", None),)),)


def _ade20k(split: str) -> tuple[Part, ...]:
    return (Part(f"images/{split}", (".jpg",), (LabelFiles(f"annotations/{split}", ".png", reduced(150)),)),)


def _cityscapes(split: str, quality: str = "gtFine") -> tuple[Part, ...]:
    labels = (
        LabelFiles(f"{quality}/{split}", f"_{quality}_labelTrainIds.png", None),
        LabelFiles(f"{quality}/{split}", f"_{quality}_labelIds.png", _CITYSCAPES),
    )
    return (Part(f"leftImg8bit/{split}", ("_leftImg8bit.png",), labels),)


def _cityscapes_extra() -> tuple[Part, ...]:
    (coarse,) = _cityscapes("train_extra", "gtCoarse")
    # What a network made of the coarse labels, as published with "Hierarchical Multi-Scale Attention for Semantic
    # Segmentation" (Tao et al., 2020).
    refined = LabelFiles("refinement_final/train_extra", "_leftImg8bit.png", _CITYSCAPES)
    # One picture is broken in the release, which asks to delete it: its labels stay.
    return (replace(coarse, labels=(refined, *coarse.labels), spare_labels=True),)


def _mapillary(split: str, values: LabelValues) -> tuple[Part, ...]:
    labels = tuple(LabelFiles(f"{split}/{folder}", ".png", values) for folder in ("v1.2/labels", "labels"))
    return (Part(f"{split}/images", (".jpg",), labels),)


def _cocostuff164k(split: str) -> tuple[Part, ...]:
    labels = (
        LabelFiles(f"annotations/{split}", "_labelTrainIds.png", None),
        LabelFiles(f"annotations/{split}", ".png", _COCO_STUFF_164K),
    )
    return (Part(f"images/{split}", (".jpg",), labels),)


def _cocostuff10k(split: str) -> tuple[Part, ...]:
    labels = tuple(LabelFiles("annotations", suffix, _COCO_STUFF_10K) for suffix in (".mat", ".png"))
    return (Part("images", (".jpg",), labels, f"imageLists/{split}.txt"),)


def _pascal_context59(split: str) -> tuple[Part, ...]:
    labels = (LabelFiles("SegmentationClassContext", ".png", reduced(59)),)
    return (Part("JPEGImages", (".jpg",), labels, f"ImageSets/SegmentationContext/{split}.txt"),)


def _nyu40(split: str) -> tuple[Part, ...]:
    return (Part("images", _PICTURES, (LabelFiles("labels", ".png", reduced(40)),), f"{split}.txt"),)


# Where a folder could be of several layouts, the first is recognised.
LAYOUTS: Mapping[str, Layout] = {
    "folder": Layout(
        "images/{train,val}/** and labels/{train,val}/** (PNG, called as the pictures), classes.json",
        None,
        {"train": _folder("train"), "val": _folder("val")},
    ),
    "ade20k": Layout(
        "{images,annotations}/{training,validation} (ADEChallengeData2016)",
        "ade20k",
        {"train": _ade20k("training"), "val": _ade20k("validation")},
    ),
    "cityscapes": Layout(
        "{leftImg8bit,gtFine}/{train,val}/CITY",
        "cityscapes",
        {"train": _cityscapes("train"), "val": _cityscapes("val")},
    ),
    "cityscapes_extra": Layout(
        "as cityscapes; for training also leftImg8bit/train_extra/CITY with refinement_final/train_extra/CITY (labels "
        "as for pictures called *_leftImg8bit.png, ids of Cityscapes), or with gtCoarse/train_extra/CITY",
        "cityscapes",
        {"train": _cityscapes("train") + _cityscapes_extra(), "val": _cityscapes("val")},
    ),
    "mapillary": Layout(
        "{training,validation}/{images,v1.2/labels}, or labels without v1.2/ (Mapillary Vistas 1.2, 65 classes)",
        "mapillary",
        {"train": _mapillary("training", plain(65, 65)), "val": _mapillary("validation", plain(65, 65))},
    ),
    "mapillary19": Layout(
        "as mapillary, with the classes of Cityscapes; training and validation pictures are trained on",
        "cityscapes",
        {
            "train": _mapillary("training", _MAPILLARY_19) + _mapillary("validation", _MAPILLARY_19),
            "val": _mapillary("validation", _MAPILLARY_19),
        },
    ),
    "cocostuff164k": Layout(
        "{images,annotations}/{train2017,val2017}",
        "cocostuff",
        {"train": _cocostuff164k("train2017"), "val": _cocostuff164k("val2017")},
    ),
    "cocostuff10k": Layout(
        "images, annotations (*.mat, or *.png with the same numbers), imageLists/{train,test}.txt",
        "cocostuff",
        {"train": _cocostuff10k("train"), "val": _cocostuff10k("test")},
    ),
    "pascal_context59": Layout(
        "JPEGImages, SegmentationClassContext, ImageSets/SegmentationContext/{train,val}.txt (VOC2010)",
        "pascal_context59",
        {"train": _pascal_context59("train"), "val": _pascal_context59("val")},
    ),
    "nyu40": Layout(
        "images, labels (PNG, 1 to 40, 0 for no class), {train,test}.txt with a name without suffix in each line",
        "nyu40",
        {"train": _nyu40("train"), "val": _nyu40("test")},
    ),
}
