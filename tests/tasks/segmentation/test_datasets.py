"""Each published layout gives its pictures with their classes, and what doesn't fit together is named."""

import io
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from PIL import Image

from internimage.tasks.folders import DatasetError
from internimage.tasks.images import ImageError
from internimage.tasks.segmentation.class_names import classes_of
from internimage.tasks.segmentation.datasets import open_dataset
from internimage.tasks.segmentation.layouts import LAYOUTS

pytestmark = pytest.mark.once

# Names of the labels by their ids, as the data sets publish them.
CITYSCAPES = [
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road",
    "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole",
    "polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck",
    "bus", "caravan", "trailer", "train", "motorcycle", "bicycle",
]  # fmt: skip
COCO_THINGS = [
    "unlabeled", "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "street sign", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "hat", "backpack", "umbrella", "shoe",
    "eye glasses", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", "plate", "wine glass",
    "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog",
    "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "mirror", "dining table", "window", "desk",
    "toilet", "door", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster",
    "sink", "refrigerator", "blender", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
    "hair brush",
]  # fmt: skip
NO_COCO_CLASS = {
    "street sign", "hat", "shoe", "eye glasses", "plate", "mirror", "window", "desk", "door", "blender", "hair brush",
}  # fmt: skip
POOLED = {
    "road": {"Road", "Lane Marking - General", "Manhole"},
    "sidewalk": {"Curb", "Sidewalk"},
    "pole": {"Pole", "Utility Pole"},
    "traffic sign": {"Traffic Sign (Front)"},
    "rider": {"Bicyclist", "Motorcyclist", "Other Rider"},
    "train": {"On Rails"},
}


def shape(stored) -> tuple[int, int]:
    return np.asarray(stored).shape[:2]


def put(root: Path, files: Mapping[str, object]) -> Path:
    """Write files: text, bytes, a list of labels as grey PNG or .mat, or a size as a picture."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str | bytes):
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        elif isinstance(content, tuple):
            cv2.imwrite(str(path), np.full((*content, 3), (10, 20, 200), np.uint8))
        elif path.suffix == ".mat":
            scipy.io.savemat(path, {"S": np.array(content, np.uint8)}, do_compression=True)
        else:
            Image.fromarray(np.array(content, np.uint8)).save(path)
    return root


def labels_of(root: Path, split: str, layout: str | None = None) -> dict[str, list[list[int]]]:
    """Name and labels of each sample."""
    dataset = open_dataset(root, split, layout)
    rows = {}
    for index in range(len(dataset)):
        sample = dataset.read(index)
        assert sample.name == dataset.name(index)
        assert sample.labels.dtype == sample.image.dtype == np.uint8
        np.testing.assert_array_equal(sample.image, dataset.read_image(index))
        assert sample.image.shape == (*sample.labels.shape, 3)
        assert abs(sample.image.astype(int) - (200, 20, 10)).max() < 9
        rows[sample.name] = sample.labels.tolist()
    assert len(rows) == len(dataset)
    return rows


def own(root: Path, files: Mapping[str, object], **classes: object) -> Path:
    return put(root, {"classes.json": json.dumps({"names": ["a", "b", "c"], **classes}), **files})


# Layouts


def test_own_data_are_pictures_and_masks_of_the_same_names(tmp_path):
    own(
        tmp_path,
        {
            "images/train/2.jpg": (1, 3),
            "images/train/deep/er/1.PNG": (1, 2),
            "images/train/1.tif": (1, 2),
            "images/train/notes.txt": "",
            "images/train/.hidden.jpg": "",
            "labels/train/2.png": [[0, 2, 255]],
            "labels/train/1.png": [[1, 0]],
            "labels/train/deep/er/1.PNG": [[2, 1]],
            "images/val/x y.webp": (2, 1),
            "labels/val/x y.png": [[0], [1]],
        },
    )
    assert labels_of(tmp_path, "train") == {
        "images/train/1.tif": [[1, 0]],
        "images/train/2.jpg": [[0, 2, 255]],
        "images/train/deep/er/1.PNG": [[2, 1]],
    }
    assert labels_of(tmp_path, "val", "folder") == {"images/val/x y.webp": [[0], [1]]}
    assert open_dataset(tmp_path, "val").classes.names == ("a", "b", "c")


def test_the_class_file_of_own_data_says_what_masks_hold(tmp_path):
    colours = np.array([[[1, 2, 3], [9, 9, 9], [0, 0, 0]]])
    files = {"images/val/1.png": (1, 3), "labels/val/1.png": colours}
    own(tmp_path, files, palette=[[0, 0, 0], [1, 2, 3], [9, 9, 9]])
    assert labels_of(tmp_path, "val") == {"images/val/1.png": [[1, 2, 0]]}
    own(tmp_path, {"labels/val/1.png": [[0, 3, 50]]}, ignore_index=50, reduce_zero_label=True)
    assert labels_of(tmp_path, "val") == {"images/val/1.png": [[255, 2, 255]]}


def test_ade20k_reduces_zero(tmp_path):
    put(
        tmp_path,
        {
            "images/training/ADE_train_00000001.jpg": (1, 3),
            "annotations/training/ADE_train_00000001.png": [[0, 1, 150]],
            "images/validation/ADE_val_00000001.jpg": (1, 1),
            "annotations/validation/ADE_val_00000001.png": [[13]],
            "objectInfo150.txt": "",
            "sceneCategories.txt": "",
        },
    )
    assert labels_of(tmp_path, "train") == {"images/training/ADE_train_00000001.jpg": [[255, 0, 149]]}
    assert labels_of(tmp_path, "val") == {"images/validation/ADE_val_00000001.jpg": [[12]]}
    assert open_dataset(tmp_path, "val").classes.names[12] == "person"


def cityscapes(split: str, quality: str, city: str, kind: str, labels: Sequence[Sequence[int]]) -> dict[str, object]:
    """A picture of Cityscapes with the files that lie beside its labels."""
    name = f"{split}/{city}/{city}_000000_000019"
    others = ("instanceIds.png", "color.png", "polygons.json")
    return {
        f"leftImg8bit/{name}_leftImg8bit.png": shape(labels),
        f"{quality}/{name}_{quality}_{kind}.png": labels,
        **{f"{quality}/{name}_{quality}_{other}": "not read" for other in others},
    }


def test_cityscapes_maps_its_34_labels_to_the_19_classes(tmp_path):
    put(tmp_path, cityscapes("val", "gtFine", "ulm", "labelIds", [[*range(34), 255]]))
    names = classes_of("cityscapes").names
    expected = [names.index(name) if name in names else 255 for name in CITYSCAPES]
    assert sorted(set(expected)) == [*range(19), 255]
    picture = "leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png"
    assert labels_of(tmp_path, "val") == {picture: [[*expected, 255]]}


def test_cityscapes_takes_files_of_train_ids_where_they_are_there(tmp_path):
    put(tmp_path, cityscapes("train", "gtFine", "ulm", "labelIds", [[7, 33]]))
    put(tmp_path, cityscapes("train", "gtFine", "bonn", "labelIds", [[8, 0]]))
    assert list(labels_of(tmp_path, "train").values()) == [[[1, 255]], [[0, 18]]]
    put(tmp_path, cityscapes("train", "gtFine", "bonn", "labelTrainIds", [[2, 255]]))
    with pytest.raises(
        DatasetError, match=r"1 of 2 pictures have no labels: ulm/ulm.* end in _gtFine_labelTrainIds\.p"
    ):
        open_dataset(tmp_path, "train")
    put(tmp_path, cityscapes("train", "gtFine", "ulm", "labelTrainIds", [[3, 4]]))
    assert list(labels_of(tmp_path, "train").values()) == [[[2, 255]], [[3, 4]]]


def test_cityscapes_with_extra_pictures_takes_coarse_labels_or_refined_ones(tmp_path):
    put(tmp_path, cityscapes("train", "gtFine", "ulm", "labelTrainIds", [[1, 2]]))
    put(tmp_path, cityscapes("val", "gtFine", "jena", "labelTrainIds", [[3]]))
    put(tmp_path, cityscapes("train_extra", "gtCoarse", "bam", "labelIds", [[11, 0]]))
    fine = {"leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png": [[1, 2]]}
    extra = "leftImg8bit/train_extra/bam/bam_000000_000019_leftImg8bit.png"
    assert labels_of(tmp_path, "train") == fine
    assert labels_of(tmp_path, "train", "cityscapes_extra") == {**fine, extra: [[2, 255]]}
    put(tmp_path, {f"refinement_final/{extra.removeprefix('leftImg8bit/')}": [[11, 33]]})
    assert labels_of(tmp_path, "train", "cityscapes_extra") == {**fine, extra: [[2, 18]]}
    assert labels_of(tmp_path, "val", "cityscapes_extra") == labels_of(tmp_path, "val")


def test_cityscapes_may_have_labels_of_extra_pictures_that_were_deleted(tmp_path):
    for split, quality in (("train", "gtFine"), ("train_extra", "gtCoarse")):
        for city in ("ulm", "troisdorf"):
            put(tmp_path, cityscapes(split, quality, city, "labelIds", [[7]]))
    broken = "{}/troisdorf/troisdorf_000000_000019_leftImg8bit.png"
    (tmp_path / "leftImg8bit" / broken.format("train_extra")).unlink()
    assert len(open_dataset(tmp_path, "train", "cityscapes_extra")) == 3
    (tmp_path / "leftImg8bit" / broken.format("train")).unlink()
    with pytest.raises(DatasetError, match="1 of 2 label files belong to no picture"):
        open_dataset(tmp_path, "train", "cityscapes_extra")


def indexed(labels: Sequence[Sequence[int]]) -> bytes:
    image = Image.fromarray(np.array(labels, np.uint8))
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def mapillary(root: Path, labels: str = "labels") -> Path:
    return put(
        root,
        {
            "training/images/a.jpg": (1, 3),
            f"training/{labels}/a.png": indexed([[64, 65, 0]]),
            "training/instances/a.png": "not read",
            "validation/images/b.jpg": (1, 66),
            f"validation/{labels}/b.png": indexed([range(66)]),
            "validation/panoptic/b.png": "not read",
        },
    )


@pytest.mark.parametrize("labels", ["labels", "v1.2/labels"])
def test_mapillary_has_65_classes_and_one_label_for_none(tmp_path, labels):
    mapillary(tmp_path, labels)
    assert labels_of(tmp_path, "train") == {"training/images/a.jpg": [[64, 255, 0]]}
    assert labels_of(tmp_path, "val") == {"validation/images/b.jpg": [[*range(65), 255]]}


def test_mapillary_is_pooled_into_the_classes_of_cityscapes(tmp_path):
    mapillary(tmp_path)
    theirs, ours = classes_of("mapillary").names, classes_of("cityscapes").names
    expected = [255] * 66
    for label, name in enumerate(ours):
        for pooled in POOLED.get(name, {name.title()}):
            expected[theirs.index(pooled)] = label
    val = {"validation/images/b.jpg": [expected]}
    assert labels_of(tmp_path, "val", "mapillary19") == val
    road = expected[theirs.index("Road")]
    assert ours[road] == "road"
    assert labels_of(tmp_path, "train", "mapillary19") == {"training/images/a.jpg": [[255, 255, 255]], **val}
    assert open_dataset(tmp_path, "val", "mapillary19").classes.names == ours


def coco_stuff_ids() -> tuple[list[int], list[int]]:
    """The ids that occur, and their classes by name."""
    names = classes_of("cocostuff").names
    by_id = dict(enumerate(COCO_THINGS)) | dict(enumerate(names[80:], 92))
    ids = [id_ for id_, name in by_id.items() if id_ and not (id_ < 92 and name in NO_COCO_CLASS)]
    assert len(COCO_THINGS) == 92
    assert max(ids) == 182
    things, stuff = names[:80], names[80:]
    classes = [things.index(by_id[id_]) if id_ < 92 else 80 + stuff.index(by_id[id_]) for id_ in ids]
    assert classes == list(range(171))
    return ids, classes


def test_coco_stuff_164k_drops_the_unused_ids(tmp_path):
    ids, classes = coco_stuff_ids()
    put(
        tmp_path,
        {
            "images/train2017/000000000009.jpg": (1, 172),
            "annotations/train2017/000000000009.png": [[*(id_ - 1 for id_ in ids), 255]],
            "images/val2017/000000000139.jpg": (1, 1),
            "annotations/val2017/000000000139.png": [[181]],
        },
    )
    assert labels_of(tmp_path, "train") == {"images/train2017/000000000009.jpg": [[*classes, 255]]}
    assert labels_of(tmp_path, "val") == {"images/val2017/000000000139.jpg": [[170]]}
    put(tmp_path, {"annotations/val2017/000000000139.png": [[11]]})
    with pytest.raises(ImageError, match=r"holds 11 \(1 pixels\), expected 0 to 10, 12 to 24, .* and 255 for none"):
        labels_of(tmp_path, "val")


def test_coco_stuff_164k_takes_converted_labels_where_they_lie_beside_the_others(tmp_path):
    put(
        tmp_path,
        {
            "images/val2017/000000000139.jpg": (1, 2),
            "annotations/val2017/000000000139.png": [[181, 12]],
            "annotations/val2017/000000000139_labelTrainIds.png": [[1, 2]],
        },
    )
    assert labels_of(tmp_path, "val") == {"images/val2017/000000000139.jpg": [[1, 2]]}


@pytest.mark.parametrize("suffix", ["mat", "png"])
def test_coco_stuff_10k_has_lists_and_zero_for_no_class(tmp_path, suffix):
    ids, classes = coco_stuff_ids()
    put(
        tmp_path,
        {
            "images/COCO_train2014_000000000077.jpg": (1, 172),
            "images/COCO_train2014_000000000149.jpg": (1, 1),
            f"annotations/COCO_train2014_000000000077.{suffix}": [[*ids, 0]],
            f"annotations/COCO_train2014_000000000149.{suffix}": [[1]],
            "imageLists/train.txt": "COCO_train2014_000000000077\n",
            "imageLists/test.txt": "COCO_train2014_000000000149\n",
            "imageLists/all.txt": "",
        },
    )
    assert labels_of(tmp_path, "train") == {"images/COCO_train2014_000000000077.jpg": [[*classes, 255]]}
    assert labels_of(tmp_path, "val") == {"images/COCO_train2014_000000000149.jpg": [[0]]}


def test_pascal_context_has_lists_and_reduces_zero(tmp_path):
    put(
        tmp_path,
        {
            "JPEGImages/2008_000002.jpg": (1, 3),
            "JPEGImages/2008_000003.jpg": (1, 1),
            "JPEGImages/2008_000004.jpg": (1, 1),
            "SegmentationClassContext/2008_000002.png": [[0, 1, 59]],
            "SegmentationClassContext/2008_000003.png": [[2]],
            "ImageSets/SegmentationContext/train.txt": "2008_000003\r\n2008_000002\r\n\r\n",
            "ImageSets/SegmentationContext/val.txt": "2008_000002",
        },
    )
    train = labels_of(tmp_path, "train")
    assert list(train.items()) == [
        ("JPEGImages/2008_000003.jpg", [[1]]),
        ("JPEGImages/2008_000002.jpg", [[255, 0, 58]]),
    ]
    assert list(labels_of(tmp_path, "val")) == ["JPEGImages/2008_000002.jpg"]


def test_nyu_has_lists_and_reduces_zero(tmp_path):
    put(
        tmp_path,
        {
            "images/0001.png": (1, 2),
            "images/0002.jpg": (1, 2),
            "labels/0001.png": [[0, 40]],
            "labels/0002.png": [[1, 2]],
            "train.txt": "0001\n",
            "test.txt": "0002\n",
        },
    )
    assert labels_of(tmp_path, "train") == {"images/0001.png": [[255, 39]]}
    assert labels_of(tmp_path, "val") == {"images/0002.jpg": [[0, 1]]}


def test_every_layout_has_both_splits_and_its_labels_are_its_classes():
    for name, layout in LAYOUTS.items():
        assert set(layout.splits) == {"train", "val"}
        for parts in layout.splits.values():
            for values in (labels.values for part in parts for labels in part.labels if labels.values is not None):
                found = set(values.table.tolist()) - {-1, 255}
                assert found == set(range(len(classes_of(layout.classes)))), name


# A data set as an object


@pytest.fixture
def small(tmp_path):
    files = {f"images/train/{index}.png": (2, 3) for index in range(12)}
    files |= {f"labels/train/{index}.png": [[0, 1, 2], [2, 255, 0]] for index in range(12)}
    return own(tmp_path / "small", files)


def test_a_data_set_is_compact_and_pickles(small):
    dataset = open_dataset(small, "train")
    data = pickle.dumps(dataset)
    assert len(data) < 4000
    copy = pickle.loads(data)
    assert [copy.name(index) for index in range(12)] == [dataset.name(index) for index in range(12)]
    np.testing.assert_array_equal(copy.read(7).labels, dataset.read(7).labels)
    assert copy.name(-1) == dataset.name(11) == copy.read(-1).name
    with pytest.raises(IndexError):
        copy.read(12)


def test_a_file_that_cannot_be_read_is_an_error_of_its_sample_alone(small):
    (small / "images/train/3.png").write_bytes((small / "images/train/3.png").read_bytes()[:40])
    (small / "labels/train/4.png").write_bytes(b"")
    (small / "labels/train/5.png").unlink()
    dataset = open_dataset(own(small, {"labels/train/5.png": [[0, 1, 2], [2, 3, 0]]}), "train")
    (small / "images/train/7.png").unlink()
    names = [dataset.name(index) for index in range(12)]
    for file, message in [
        ("images/train/3.png", "truncated PNG"),
        ("labels/train/4.png", "is empty"),
        ("labels/train/5.png", r"holds 3 \(1 pixels\), expected 0 to 2"),
        ("images/train/7.png", "no such file"),
    ]:
        with pytest.raises(ImageError, match=message) as error:
            dataset.read(names.index(file.replace("labels", "images")))
        assert str(small / file) in str(error.value)
    assert dataset.read_image(names.index("images/train/4.png")).shape == (2, 3, 3)
    assert dataset.read(names.index("images/train/6.png")).labels.shape == (2, 3)


def test_labels_of_another_size_are_an_error_with_both_sizes(small):
    put(small, {"labels/train/0.png": [[0, 1]], "labels/train/1.png": [[0, 1], [1, 1], [2, 2]]})
    dataset = open_dataset(small, "train")
    with pytest.raises(ImageError, match=r"0\.png: has 1x2 pixels, expected 2x3 as its picture images/train/0\.png;"):
        dataset.read(0)
    with pytest.raises(ImageError, match=r"has 3x2 pixels, expected 2x3 .*\(turned: does the picture carry a camera's"):
        dataset.read(1)


def test_file_names_need_not_be_text(tmp_path):
    own(tmp_path, {"images/val/x.png": (1, 1), "labels/val/x.png": [[1]]})
    strange = b"\xff\xfe.png"
    for kind in ("images", "labels"):
        folder = tmp_path / kind / "val"
        (folder / "x.png").rename(folder / strange.decode("utf-8", "surrogateescape"))
    assert list(labels_of(tmp_path, "val").values()) == [[[1]]]


# What doesn't fit together


def test_pictures_without_labels_are_counted_and_the_first_ten_named(small):
    for index in range(11):
        (small / f"labels/train/{index}.png").unlink()
    with pytest.raises(DatasetError) as error:
        open_dataset(small, "train")
    assert str(error.value) == (
        f"{small}/images/train: 11 of 12 pictures have no labels: 0, 1, 10, 2, 3, 4, 5, 6, 7, 8 and 1 more; expected "
        f"files in {small}/labels/train that are called so and end in .png"
    )


def test_labels_without_pictures_are_an_error_where_no_list_chooses(small):
    (small / "images/train/3.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 12 label files belong to no picture in .*: labels/train/3\.png; rem"):
        open_dataset(small, "train")


def test_a_list_chooses_among_the_files(tmp_path):
    files = {"images/1.png": (1, 1), "images/2.png": (1, 1), "labels/1.png": [[1]], "labels/3.png": [[1]]}
    put(tmp_path, {**files, "train.txt": "1\n", "test.txt": "1\n4\n"})
    assert labels_of(tmp_path, "train") == {"images/1.png": [[0]]}
    with pytest.raises(DatasetError, match=r"test\.txt: names 1 of 2 pictures that .*images lacks: 4; expected the na"):
        open_dataset(tmp_path, "val")
    put(tmp_path, {"test.txt": "2\n"})
    with pytest.raises(DatasetError, match="1 of 1 pictures have no labels: 2"):
        open_dataset(tmp_path, "val")
    (tmp_path / "test.txt").unlink()
    with pytest.raises(
        DatasetError, match=r"test\.txt: no such list of pictures; .* holds images/, labels/, train\.txt"
    ):
        open_dataset(tmp_path, "val")


def test_two_pictures_of_one_mask_are_an_error(small):
    put(small, {"images/train/3.jpg": (2, 3)})
    with pytest.raises(DatasetError, match=r"images/train/3\.jpg and images/train/3\.png would have the same labels"):
        open_dataset(small, "train")


def test_an_empty_split_is_an_error(tmp_path):
    own(tmp_path, {"images/train/x.txt": "", "labels/train/x.txt": ""})
    with pytest.raises(
        DatasetError, match=r"images/train: holds no \.avif, \.bmp, .* file; expected pictures with labels"
    ):
        open_dataset(tmp_path, "train")
    put(tmp_path, {"images/x.png": (1, 1), "labels/x.png": [[0]], "train.txt": "\n"})
    with pytest.raises(DatasetError, match=r"train\.txt: names no picture of .*images; expected pictures with labels"):
        open_dataset(tmp_path, "train", "nyu40")


def test_each_folder_of_a_split_must_hold_pictures(tmp_path):
    put(tmp_path, cityscapes("train", "gtFine", "ulm", "labelIds", [[7]]))
    put(tmp_path, {"leftImg8bit/train_extra/bam/x.txt": "", "gtCoarse/train_extra/bam/x.txt": ""})
    assert len(open_dataset(tmp_path, "train", "cityscapes")) == 1
    with pytest.raises(DatasetError, match=r"leftImg8bit/train_extra: holds no _leftImg8bit\.png file"):
        open_dataset(tmp_path, "train", "cityscapes_extra")


def test_a_missing_folder_is_named_with_what_is_there(small):
    with pytest.raises(DatasetError, match=r"images/val: no such folder; .*images holds train/"):
        open_dataset(small, "val")
    (small / "images/val").mkdir()
    with pytest.raises(DatasetError, match=r"labels/val: no such folder; .*labels holds train/"):
        open_dataset(small, "val")
    with pytest.raises(DatasetError, match=r"none: no such folder; .* holds small/"):
        open_dataset(small.parent / "none", "train")


def test_own_data_without_class_names_are_explained(small):
    (small / "classes.json").unlink()
    with pytest.raises(DatasetError, match=r'classes\.json: no such file of classes.*expected \{"names"'):
        open_dataset(small, "train")


def test_unknown_data_are_explained_with_what_is_there_and_what_is_known(tmp_path):
    put(tmp_path, {"pictures/1.jpg": (1, 1), "masks/1.png": [[0]]})
    with pytest.raises(DatasetError) as error:
        open_dataset(tmp_path, "train")
    message = str(error.value)
    assert message.startswith(f"{tmp_path}: holds masks/, pictures/, which is no known layout; expected one of: folder")
    assert all(f"{name}: {layout.summary}" in message for name, layout in LAYOUTS.items())


def test_data_that_lie_deeper_are_found_for_the_message(small):
    with pytest.raises(DatasetError, match=rf"holds no data of a known layout, but {small} does"):
        open_dataset(small.parent, "train")


def test_an_unknown_layout_or_split_is_explained(small):
    with pytest.raises(DatasetError, match=r"no layout 'cityscape' .* nearest: cityscapes"):
        open_dataset(small, "train", "cityscape")
    with pytest.raises(DatasetError, match="no split 'test' of a data set of segmentation, expected train or val"):
        open_dataset(small, "test")


def test_more_than_255_classes_are_an_error(small):
    put(small, {"classes.json": json.dumps({"names": [str(label) for label in range(256)]})})
    with pytest.raises(DatasetError, match="names 256 classes, expected 1 to 255"):
        open_dataset(small, "train")
