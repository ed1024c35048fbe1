"""Each published layout gives its pictures with their objects, and what doesn't fit together is named."""

import importlib
import pickle
import sys

import cv2
import numpy as np
import pytest
from detection_files import annotation, coco, image, put
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from internimage.tasks.detection.datasets import open_dataset, trainable
from internimage.tasks.detection.found_pictures import read_sizes
from internimage.tasks.detection.layouts import LAYOUTS
from internimage.tasks.detection.objects import Verified
from internimage.tasks.detection.voc_xml import VOC_CLASSES
from internimage.tasks.folders import DatasetError
from internimage.tasks.images import ImageError, read_image

pytestmark = pytest.mark.once

JSON = "annotations/instances_train.json"
A_PICTURE = {"images/a.png": (40, 60)}


def blob(rng, size):
    """A mask."""
    mask = np.zeros(size, np.uint8)
    centre = (int(rng.integers(10, size[1] - 10)), int(rng.integers(10, size[0] - 10)))
    axes = tuple(rng.integers(3, 9, 2).tolist())
    cv2.ellipse(mask, centre, axes, float(rng.integers(180)), 0, 360, 1, -1)
    return mask


def stored(mask, kind):
    """The mask as COCO's files hold it."""
    if kind == "polygons":
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        return [(outline.astype(float) + 0.3).ravel().tolist() for outline in outlines]
    if kind == "compressed":
        rle = coco_masks.encode(np.asfortranarray(mask))
        return {"size": list(mask.shape), "counts": rle["counts"].decode()}
    flat = mask.ravel(order="F")
    changes = [0, *(np.flatnonzero(np.diff(flat)) + 1), len(flat)]
    return {"size": list(mask.shape), "counts": [0] * int(flat[0]) + np.diff(changes).tolist()}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A data set with masks of all kinds; its annotations are in no order."""
    rng = np.random.default_rng(0)
    sizes = [(int(h), int(w)) for h, w in rng.integers(40, 90, (6, 2))]
    images = [image(10 * (7 - n), f"{n}.png", size) for n, size in enumerate(sizes)]
    annotations = []
    for number in range(30):
        picture = images[int(rng.integers(5))]  # the last one has no objects
        mask = blob(rng, (picture["height"], picture["width"]))
        segmentation = stored(mask, ("polygons", "compressed", "uncompressed")[number % 3])
        crowd = int(number % 3 == 2)
        box = cv2.boundingRect(mask)
        category = int(rng.choice([3, 7, 90]))
        annotations.append(
            {**annotation(picture["id"], box, category, area=int(mask.sum()), segmentation=segmentation),
             "id": number + 1, "iscrowd": crowd}
        )  # fmt: skip
    files = {f"images/{picture['file_name']}": size for picture, size in zip(images, sizes, strict=True)}
    root = tmp_path_factory.mktemp("shapes")
    return put(root, {JSON: coco(images, annotations, (90, 3, 7)), **files})


def test_objects_are_those_that_pycocotools_reads(shapes):
    data, truth = open_dataset(shapes, "train"), COCO(str(shapes / JSON))
    assert data.category_ids == (3, 7, 90)
    assert data.classes == ("class 3", "class 7", "class 90")
    assert data.has_masks
    assert data.metric == "coco"
    assert data.dropped == ()
    assert len(data) == 6
    for index in range(len(data)):
        image_id = data.image_id(index)
        annotations = truth.loadAnns(truth.getAnnIds(image_id))
        objects = data.objects(index)
        assert data.name(index) == f"images/{truth.imgs[image_id]['file_name']}"
        assert [data.category_ids[label] for label in objects.labels] == [a["category_id"] for a in annotations]
        assert objects.ignored.tolist() == [bool(a["iscrowd"]) for a in annotations]
        boxes = np.array([a["bbox"] for a in annotations]).reshape(-1, 4)
        np.testing.assert_array_equal(objects.boxes, np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]))
        np.testing.assert_array_equal(objects.areas, [a["area"] for a in annotations])
        assert len(objects.masks) == len(annotations)
        for mask, expected in zip(objects.masks, annotations, strict=True):
            assert np.array_equal(coco_masks.decode(mask), truth.annToMask(expected))


def test_a_picture_is_read_with_its_objects(shapes):
    data = open_dataset(shapes, "train")
    sample = data.read(2)
    assert sample.name == data.name(2)
    assert np.array_equal(sample.image, read_image(shapes / sample.name))
    assert sample.image.shape[:2] == data.size(2)
    assert np.array_equal(sample.objects.boxes, data.objects(2).boxes)


def boxes_of(data):
    return [data.objects(index).boxes.tolist() for index in range(len(data))]


def test_a_data_set_can_be_pickled(shapes):
    data = open_dataset(shapes, "train")
    assert boxes_of(pickle.loads(pickle.dumps(data))) == boxes_of(data)


def test_areas_that_are_not_told_are_those_of_masks_or_boxes(tmp_path):
    ellipse = blob(np.random.default_rng(1), (40, 60))
    files = {JSON: coco([image(1, "a.png")], [annotation(1, segmentation=stored(ellipse, "compressed"))])}
    assert open_dataset(put(tmp_path, {**files, "images/a.png": (40, 60)}), "train").objects(0).areas == ellipse.sum()
    put(tmp_path, {JSON: coco([image(1, "a.png")], [annotation(1, segmentation=[])])})
    assert open_dataset(tmp_path, "train").objects(0).areas == 200


def test_boxes_are_clipped_and_those_that_can_not_be_are_left_out_and_told(tmp_path):
    boxes = [(50, 30, 20, 20), (5, 5, 0, 3), (5, 5, 3, -1), (70, 5, 5, 5), (float("nan"), 1, 2, 2), (1, 1, 5, 5)]
    boxes += [(1, 2, 3, 4)] * 9
    content = coco([image(1, "a.png"), image(2, "b.png")], [annotation(1 + n % 2, b) for n, b in enumerate(boxes)])
    data = open_dataset(put(tmp_path, {JSON: content, "images/a.png": (40, 60), "images/b.png": (40, 60)}), "train")
    assert data.objects(0).boxes[0].tolist() == [50, 30, 60, 40]
    assert data.counts.tolist() == [6, 5]
    remarks = dict(zip(("finite", "width", "outside"), data.dropped, strict=True))
    assert "1 of 15 objects are left out, as their boxes are not finite: in images/a.png" in remarks["finite"]
    assert "2 of 15 objects are left out, as their boxes have no width" in remarks["width"]
    assert "images/a.png, images/b.png" in remarks["width"]
    assert "1 of 15 objects are left out, as they lie outside" in remarks["outside"]


def test_masks_that_some_objects_lack_are_not_used_which_is_told(tmp_path):
    outline = [[1, 1, 9, 1, 9, 9]]
    content = coco([image(1, "a.png")], [annotation(1, segmentation=outline), annotation(1)])
    data = open_dataset(put(tmp_path, {JSON: content, "images/a.png": (40, 60)}), "train")
    assert not data.has_masks
    assert data.objects(0).masks is None
    assert "1 of 2 objects have no mask" in data.dropped[0]


def test_outlines_of_two_points_are_no_masks(tmp_path):
    outlines = [[1, 1, 9, 1, 9, 9]], [[1, 1, 5, 5]]
    content = coco([image(1, "a.png")], [annotation(1, segmentation=outline) for outline in outlines])
    data = open_dataset(put(tmp_path, {JSON: content, "images/a.png": (40, 60)}), "train")
    assert data.has_masks
    assert data.counts.tolist() == [1]
    assert "1 of 2 objects are left out, as their masks have no polygon of three points" in data.dropped[0]


def test_pictures_are_trained_on_if_they_have_objects_and_are_not_tiny(tmp_path):
    sizes = {"a": (40, 60), "b": (40, 60), "c": (31, 60), "d": (32, 32)}
    images = [image(n, f"{name}.png", size) for n, (name, size) in enumerate(sizes.items())]
    content = coco(images, [annotation(0), annotation(2), annotation(3, (1, 1, 8, 8), iscrowd=1)])
    data = open_dataset(put(tmp_path, {JSON: content, **{f"{n}.png": size for n, size in sizes.items()}}), "train")
    assert len(data) == 4
    assert trainable(data).tolist() == [0, 3]
    assert trainable(data, keep_empty=True).tolist() == [0, 1, 3]
    put(tmp_path, {JSON: coco(images, [])})
    with pytest.raises(DatasetError, match="none of the 4 pictures can be trained on: 0 have objects, 3 have sides"):
        trainable(open_dataset(tmp_path, "train"))


def voc(name="dog", corners=(3, 4, 20, 31), size=(40, 60), extra="<difficult>0</difficult>", head=""):
    tags = "".join(f"<{n}>{v}</{n}>" for n, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    return (
        f"{head}<annotation><size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
        f"<object>{part}<name>{name}</name>{extra}<bndbox>{tags}</bndbox></object></annotation>"
    )


def voc_year(year, names, prefix=""):
    folder = f"{prefix}VOC{year}"
    pictures = {f"{folder}/JPEGImages/{name}.jpg": (40, 60) for name in names}
    return {**pictures, **{f"{folder}/Annotations/{name}.xml": voc() for name in names}}


def odgt(image_id, *entries):
    return {"ID": image_id, "gtboxes": [{"tag": tag, "fbox": box, **extra} for tag, box, extra in entries]}


BOXES = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
PERSON = '{"ID": "a,1", "gtboxes": [{"tag": "person", "fbox": [5, 6, 20, 90], "extra": {"ignore": 0}}]}\n'
CROWD = (
    '{"ID": "b", "gtboxes": [{"tag": "person", "fbox": [5, 6, 20, 10], "extra": {"ignore": 1}}, '
    '{"tag": "mask", "fbox": [-9, 6, 20, 10], "extra": {"ignore": 1}}, {"tag": "person", "fbox": [1, 2, 3, 4]}]}\n'
)
OBJECT = ([5.0, 6.0, 25.0, 16.0], 0, False)

# Files, what the pictures are called, and what objects each has: box, label and whether it is ignored.
LAID_OUT = {
    "coco_json in images": ({JSON: coco([image(1, "a.png")], [annotation(1)]), "images/a.png": (40, 60)},
        {"images/a.png": [OBJECT]}),
    "coco_json by split": ({JSON: coco([image(1, "a.png")], [annotation(1)]), "images/train/a.png": (40, 60)},
        {"images/train/a.png": [OBJECT]}),
    "coco_json in train": ({JSON: coco([image(1, "a.png")], [annotation(1)]), "train/a.png": (40, 60)},
        {"train/a.png": [OBJECT]}),
    "coco_json beside": ({JSON: coco([image(1, "./sub\\a.png")], [annotation(1)]), "sub/a.png": (40, 60)},
        {"sub/a.png": [OBJECT]}),
    "coco_json without sizes": ({JSON: coco([{"id": "x", "file_name": "a.png"}], [annotation("x")]),
        "a.png": (40, 60)}, {"a.png": [OBJECT]}),
    "coco": ({"annotations/instances_train2017.json": coco([image(1, "a.jpg")], [annotation(1)]),
        "train2017/a.jpg": (40, 60)}, {"train2017/a.jpg": [OBJECT]}),
    "roboflow": ({"train/_annotations.coco.json": coco([image(0, "a.jpg")], [annotation(0, iscrowd=1)]),
        "train/a.jpg": (40, 60)}, {"train/a.jpg": [([5.0, 6.0, 25.0, 16.0], 0, True)]}),
    "objects365": ({"annotations/zhiyuan_objv2_train.json": coco([image(1, "images/v1/patch8/a.jpg")], [annotation(1)]),
        "train/patch8/a.jpg": (40, 60)}, {"train/patch8/a.jpg": [OBJECT]}),
    "lvis": ({"annotations/lvis_v1_train.json": coco([{"id": 1, "height": 40, "width": 60,
        "coco_url": "http://images.cocodataset.org/val2017/a.jpg"}], [annotation(1)]), "val2017/a.jpg": (40, 60)},
        {"val2017/a.jpg": [OBJECT]}),
    "voc": ({"VOC2007/ImageSets/Main/trainval.txt": "000001\n000003\n",
        "VOC2012/ImageSets/Main/trainval.txt": "2008_1\n", **voc_year(2007, ["000001", "000003"]),
        **voc_year(2012, ["2008_1"]),
        "VOC2007/Annotations/000003.xml": voc("tvmonitor", (0, 1.9, 60, 40), extra="<difficult>1</difficult>")},
        {"VOC2007/JPEGImages/000001.jpg": [([2.0, 3.0, 19.0, 30.0], 11, False)],
         "VOC2007/JPEGImages/000003.jpg": [([0.0, 0.0, 59.0, 39.0], 19, True)],
         "VOC2012/JPEGImages/2008_1.jpg": [([2.0, 3.0, 19.0, 30.0], 11, False)]}),
    "voc2007": ({"VOCdevkit/VOC2007/ImageSets/Main/trainval.txt": "1\n", **voc_year(2007, ["1"], "VOCdevkit/")},
        {"VOCdevkit/VOC2007/JPEGImages/1.jpg": [([2.0, 3.0, 19.0, 30.0], 11, False)]}),
    "voc2012": ({"VOC2012/ImageSets/Main/train.txt": "1\n", **voc_year(2012, ["1"])},
        {"VOC2012/JPEGImages/1.jpg": [([2.0, 3.0, 19.0, 30.0], 11, False)]}),
    "crowd_human": ({"annotation_train.odgt": PERSON + CROWD, "Images/a,1.jpg": (40, 60), "Images/b.jpg": (40, 60)},
        {"Images/a,1.jpg": [([5.0, 6.0, 25.0, 40.0], 0, False)],
         "Images/b.jpg": [([5.0, 6.0, 25.0, 16.0], 0, True), ([0.0, 6.0, 11.0, 16.0], 0, True),
                          ([1.0, 2.0, 4.0, 6.0], 0, False)]}),
    "open_images": ({"annotations/oidv6-train-annotations-bbox.csv":
        f"{BOXES}\nb,x,/m/2,1,0,0.5,0.25,1,0,0,0,0,0\na,x,/m/1,1,0.1,0.2,0,1,0,0,1,0,0\nb,x,/m/1,1,0,1,0,1,0,0,0,0,0\n",
        "annotations/class-descriptions-boxable.csv": '/m/1,Tree\n/m/2,"House, small"\n',
        "annotations/train-annotations-human-imagelabels-boxable.csv":
            "ImageID,Source,LabelName,Confidence\na,verification,/m/2,0\nz,verification,/m/1,0\n",
        "train/a.jpg": (40, 60), "train/b.jpg": (40, 60)},
        {"train/b.jpg": [([0.0, 10.0, 30.0, 40.0], 1, False), ([0.0, 0.0, 60.0, 40.0], 0, False)],
         "train/a.jpg": [([6.0, 0.0, 12.0, 40.0], 0, True)]}),
}  # fmt: skip
LAID_OUT |= {"lvis_minival": LAID_OUT["lvis"], "voc2012_test": LAID_OUT["voc"]}  # differ in what is tested


@pytest.mark.parametrize("name", LAID_OUT)
def test_each_layout_is_recognised_and_read(name, tmp_path):
    files, expected = LAID_OUT[name]
    put(tmp_path, files)
    data, named = open_dataset(tmp_path, "train"), open_dataset(tmp_path, "train", name.split()[0])
    assert data.metric == named.metric == LAYOUTS[name.split()[0]].metric
    assert not data.has_masks
    assert {data.name(index) for index in range(len(data))} == set(expected)
    for index in range(len(data)):
        objects = data.read(index).objects
        found = list(zip(objects.boxes.tolist(), objects.labels.tolist(), objects.ignored.tolist(), strict=True))
        assert [(pytest.approx(box, abs=1e-5), *rest) for box, *rest in expected[data.name(index)]] == found


def test_every_layout_has_both_splits_and_is_tried_here():
    assert set(LAYOUTS) == {name.split()[0] for name in LAID_OUT}
    assert all(set(layout.splits) == {"train", "val"} for layout in LAYOUTS.values())


def test_layouts_with_the_same_training_pictures_differ_in_what_is_tested(tmp_path):
    lists = {f"VOC{year}/ImageSets/Main/test.txt": "1\n" for year in (2007, 2012)}
    put(tmp_path, {**lists, **voc_year(2007, ["1"]), **voc_year(2012, ["1"]), "val2017/a.jpg": (40, 60)})
    put(tmp_path, {
        "lvis_v1_val.json": coco([image(1, "val2017/a.jpg"), image(2, "val2017/a.jpg")], []),
        "annotations/lvis_v1_minival_inserted_image_name.json": coco([image(2, "val2017/a.jpg")], []),
    })  # fmt: skip
    layouts = ("voc", "voc2012_test", "lvis", "lvis_minival")
    opened = [open_dataset(tmp_path, "val", layout) for layout in layouts]
    assert [data.name(0)[:7] for data in opened] == ["VOC2007", "VOC2012", "val2017", "val2017"]
    assert [data.image_id(len(data) - 1) for data in opened] == ["1", "1", 2, 2]
    assert [len(data) for data in opened] == [1, 1, 2, 1]
    with pytest.raises(DatasetError, match=r"minival_inserted_image_name.json: no such file.*; expected annotations/l"):
        open_dataset(tmp_path / "VOC2012", "val", "lvis_minival")
    (tmp_path / "VOC2012/ImageSets/Main/test.txt").unlink()
    with pytest.raises(DatasetError, match=r"VOC2012/ImageSets/Main/test.txt: no such file.* not public: .* take voc"):
        open_dataset(tmp_path, "val", "voc2012_test")


@pytest.mark.parametrize("ids", [["x", "007"], [3, -4], [2**64, 1], [5, "5"]])
def test_ids_are_given_back_as_they_are(ids, tmp_path):
    content = coco([image(number, "a.png") for number in ids], [annotation(ids[1])])
    data = open_dataset(put(tmp_path, {JSON: content, **A_PICTURE}), "train")
    assert [data.image_id(index) for index in range(2)] == ids
    assert data.counts.tolist() == [0, 1]


def test_the_classes_of_voc_are_those_that_it_publishes():
    assert len(set(VOC_CLASSES)) == 20
    assert sorted(VOC_CLASSES) == list(VOC_CLASSES)  # as its development kit lists them


def test_what_was_verified_in_federated_data_is_told(tmp_path):
    images = [
        image(1, "a.png", neg_category_ids=[9, 2], not_exhaustive_category_ids=[5]),
        image(2, "b.png", neg_category_ids=[], not_exhaustive_category_ids=[]),
    ]
    content = coco(images, [annotation(1, category_id=5)], (9, 5, 2, 1))
    data = open_dataset(put(tmp_path, {"lvis_v1_val.json": content, "a.png": (40, 60), "b.png": (40, 60)}), "val")
    assert data.verified(0) == Verified(present={2}, absent={1, 3}, incomplete={2})  # of the ids 1, 2, 5, 9
    assert data.verified(1) == Verified()
    opened = open_dataset(put(tmp_path, LAID_OUT["open_images"][0]), "train", "open_images")
    assert [opened.verified(index) for index in range(2)] == [Verified({0, 1}), Verified({0}, absent={1})]
    own = open_dataset(put(tmp_path, LAID_OUT["coco_json beside"][0]), "train")
    assert own.verified(0) is None


RLE = {"size": [40, 61], "counts": [2440]}
SPOILT = {
    "not JSON": ({JSON: "{", **A_PICTURE}, "instances_train.json: isn't JSON, or damaged: .* line 1"),
    "not text": ({JSON: b"\xff\xfe{", **A_PICTURE}, "isn't JSON, or damaged"),
    "a list": ({JSON: [1], **A_PICTURE}, "holds a list, expected an object with images, annotations, categories"),
    "other keys": ({JSON: {"shapes": [], "images": []}}, "isn't in COCO's format: has shapes, images, expected the l"),
    "no image": ({JSON: coco([], [])}, "instances_train.json: names no picture"),
    "no category": ({JSON: coco([image(1, "a.png")], [], ())}, "has no categories"),
    "same category": ({JSON: coco([], [], (4, 4))}, "class 4 and class 4 have the same id 4"),
    "nameless category": ({JSON: {"images": [], "annotations": [], "categories": [{"id": 1}]}}, "number id and a name"),
    "same image": ({JSON: coco([image(1, "a.png"), image(1, "a.png")], []), **A_PICTURE}, "two images have the id 1"),
    "nameless image": ({JSON: coco([{"id": 1, "name": "a"}], [])}, "image 0: has neither file_name nor coco_url, but"),
    "image of no id": ({JSON: coco([{"file_name": "a.png"}], [])}, "image 0: expected an id and a file_name"),
    "no picture": ({JSON: coco([image(n, f"{n}.png") for n in range(12)], []), "3.png": (40, 60)},
        r"11 of 12 pictures are missing: images/train/0.png, .*images/train/10.png and 1 more; the first .* or .*/0.p"),
    "unknown image": ({JSON: coco([image(1, "a.png")], [annotation(2)]), **A_PICTURE},
        "annotation 0: belongs to image 2, which the file doesn't have"),
    "unknown category": ({JSON: coco([image(1, "a.png")], [annotation(1, category_id=3)], (1, 2)), **A_PICTURE},
        "category_id 3, expected one of the ids 1 to 2 of the 2 categories"),
    "no box": ({JSON: coco([image(1, "a.png")], [{"image_id": 1, "category_id": 1}]), **A_PICTURE},
        "annotation 0: has no bbox, but image_id, category_id"),
    "box of three": ({JSON: coco([image(1, "a.png")], [annotation(1, (1, 2, 3))]), **A_PICTURE}, "expected x, y of"),
    "box of text": ({JSON: coco([image(1, "a.png")], [annotation(1, "abcd")]), **A_PICTURE}, "expected x, y of the"),
    "huge box": ({JSON: coco([image(1, "a.png")], [annotation(1, (1, 2, 3, 10**400))]), **A_PICTURE}, "0: int"),
    "name that none can have": ({JSON: coco([image(1, "a\0/b.png")], []), **A_PICTURE}, "1 of 1 pictures are missing"),
    "corners": ({JSON: coco([image(1, "a.png")], [annotation(1, (35, 25, 50, 38))] * 3), **A_PICTURE},
        "3 of 3 boxes reach out of their pictures .*: they look like corners x1, y1, x2, y2; expected x, y of the"),
    "shares": ({JSON: coco([image(1, "a.png")], [annotation(1, (0.1, 0.2, 0.5, 0.8))]), **A_PICTURE},
        "look like shares of the picture's sides"),
    "far boxes": ({JSON: coco([image(1, "a.png")], [annotation(1, (350, 2, 500, 8))] * 3), **A_PICTURE},
        "3 of 3 boxes reach out of their pictures or have negative sides; expected"),
    "RLE of another size": ({JSON: coco([image(1, "a.png")], [annotation(1, segmentation=RLE)]), **A_PICTURE},
        r"annotation 0: its RLE is of size \[40, 61\], expected \[height, width\] \[40, 60\]"),
    "RLE of another sum": ({JSON: coco([image(1, "a.png")],
        [annotation(1, segmentation={"size": [40, 60], "counts": [5, 6]})]), **A_PICTURE}, "don't sum up to 40 x 60"),
    "compressed RLE of another sum": ({JSON: coco([image(1, "a.png")],
        [annotation(1, segmentation={"size": [40, 60], "counts": "`1Z6"})]), **A_PICTURE}, "don't sum up to 40 x 60"),
    "damaged RLE": ({JSON: coco([image(1, "a.png")],
        [annotation(1, segmentation={"size": [40, 60], "counts": "zzzz00~~"})]), **A_PICTURE}, "don't sum up to"),
    "text in a polygon": ({JSON: coco([image(1, "a.png")], [annotation(1, segmentation=[["x"] * 6])]), **A_PICTURE},
        "annotation 0: must be real number, not str; expected a segmentation of polygons"),
    "flat polygon": ({JSON: coco([image(1, "a.png")], [annotation(1, segmentation=[1, 1, 5, 1, 5, 5])]), **A_PICTURE},
        r"its segmentation is \[1, 1, .*, expected polygons"),
    "unreadable size": ({JSON: coco([{"id": 1, "file_name": "a.png"}], []), "a.png": b"junk"},
        "size of a picture can't be read: .*a.png: not a picture"),
    "no XML": ({"VOC2012/ImageSets/Main/train.txt": "1\n2\n", **voc_year(2012, ["1"]), "VOC2012/JPEGImages/2.jpg": b""},
        "1 of 2 annotations are missing: VOC2012/Annotations/2.xml"),
    "damaged XML": ({"VOC2012/ImageSets/Main/train.txt": "1\n", **voc_year(2012, ["1"]),
        "VOC2012/Annotations/1.xml": voc()[:-20]}, "1.xml: isn't XML, or damaged: "),
    "entities": ({"VOC2012/ImageSets/Main/train.txt": "1\n", **voc_year(2012, ["1"]),
        "VOC2012/Annotations/1.xml": voc("&a;", head='<!DOCTYPE x [<!ENTITY a "dog">]>')}, "1.xml: has a DOCTYPE"),
    "hidden entities": ({"VOC2012/ImageSets/Main/train.txt": "1\n", **voc_year(2012, ["1"]),
        "VOC2012/Annotations/1.xml": voc("&a;", head='<!DOCTYPE x [<!ENTITY a "dog">]>').encode("utf-16")},
        "1.xml: has a DOCTYPE or isn't UTF-8"),
    "other class": ({"VOC2012/ImageSets/Main/train.txt": "1\n", **voc_year(2012, ["1"]),
        "VOC2012/Annotations/1.xml": voc("dragon")}, "an object is called 'dragon', expected one of aeroplane, "),
    "no size": ({"VOC2012/ImageSets/Main/train.txt": "1\n", **voc_year(2012, ["1"]),
        "VOC2012/Annotations/1.xml": voc(size=(0, 0))}, "1.xml: isn't .* its size is 0x0"),
    "no corner": ({"VOC2012/ImageSets/Main/train.txt": "1\n", **voc_year(2012, ["1"]),
        "VOC2012/Annotations/1.xml": voc().replace("xmax", "max")}, "1.xml: isn't .*: there is no bndbox/xmax"),
    "damaged odgt": ({"annotation_train.odgt": PERSON + CROWD[:50], "Images/a,1.jpg": (40, 60)}, "line 2: isn't"),
    "odgt without box": ({"annotation_train.odgt": PERSON.replace("fbox", "box")}, "line 1: there is no fbox"),
    "other table": ({"oidv6-train-annotations-bbox.csv": "ImageID,XMin\n", "class-descriptions-boxable.csv": "/m/1,A"},
        "has no column LabelName, YMin, XMax, YMax, IsGroupOf, but ImageID, XMin"),
    "short row": ({"oidv6-train-annotations-bbox.csv": f"{BOXES}\na,x\n", "class-descriptions-boxable.csv": "/m/1,A\n"},
        "isn't a table, or damaged after line 2"),
    "other key": ({"oidv6-train-annotations-bbox.csv": f"{BOXES}\na,x,/m/2,1,0,1,0,1,0,0,0,0,0\n",
        "class-descriptions-boxable.csv": "/m/1,A\n"}, "line 2: has the class /m/2, which class-desc"),
    "pixels": ({"oidv6-train-annotations-bbox.csv": f"{BOXES}\na,x,/m/1,1,0,100,0,1,0,0,0,0,0\n",
        "class-descriptions-boxable.csv": "/m/1,A\n"}, "holds corners up to 100.0, expected shares of sides"),
    "no classes": ({"oidv6-train-annotations-bbox.csv": BOXES, "class-descriptions-boxable.csv": "/m/1,A\n/m/1,B\n"},
        "expected lines such as /m/011k07,Tortoise"),
    "nothing": ({"photos/a.png": (40, 60)}, "holds photos/, which is no known layout; expected one of: coco_json: ann"),
    "inside": ({f"data/{JSON}": "{}"}, "holds no data of a known layout, but .*data does"),
    "other split": ({"annotations/instances_val.json": "{}"},
        r"instances_train.json: no such file; .*annotations holds instances_val.json; expected annotations/instances_"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_spoilt_is_named(name, tmp_path):
    files, message = SPOILT[name]
    with pytest.raises(DatasetError, match=message) as error:
        open_dataset(put(tmp_path, files), "train")
    assert "\n" not in str(error.value)


def test_other_data_than_open_images_has_no_hierarchy(tmp_path):
    put(tmp_path, LAID_OUT["coco_json in images"][0])
    with pytest.raises(
        DatasetError, match=r"tree.json: classes have a hierarchy in Open Images alone, but .* coco_json"
    ):
        open_dataset(tmp_path, "train", hierarchy=tmp_path / "tree.json")


def test_wrong_names_are_named(tmp_path):
    with pytest.raises(DatasetError, match=r"no split 'test' .* expected train or val"):
        open_dataset(tmp_path, "test")
    with pytest.raises(DatasetError, match=r"no layout 'coko' .* nearest: coco"):
        open_dataset(tmp_path, "train", "coko")
    with pytest.raises(DatasetError, match="nowhere: no such folder"):
        open_dataset(tmp_path / "nowhere", "train")


def test_pictures_of_another_size_and_masks_that_can_not_be_are_found_when_read(tmp_path):
    far = [[1, 1, 5, 1, 1e9, 5]]
    content = coco([image(1, "a.png", (60, 40))], [annotation(1, segmentation=far)])
    data = open_dataset(put(tmp_path, {JSON: content, **A_PICTURE}), "train")
    with pytest.raises(ImageError, match=r"a.png: has 40x60 pixels, but its annotations say 60x40 \(turned:"):
        data.read(0)
    with pytest.raises(ImageError, match=r"a.png: its annotations can't be used: an outline leads far out"):
        data.objects(0)


def test_sizes_of_files_are_those_of_the_upright_picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    options = {"a.jpg": {}, "b.jpg": {"progressive": True}, "c.jpg": {"exif": turned}, "d.png": {}, "e.bmp": {}}
    for name, extra in options.items():
        Image.fromarray(pixels).save(tmp_path / name, **extra)
    sizes = read_sizes(tmp_path, [name.encode() for name in options])
    assert sizes == [read_image(tmp_path / name).shape[:2] for name in options]
    assert sizes[2] == (53, 37)


def test_a_missing_pycocotools_says_how_to_mend_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)  # as if it couldn't be found
    monkeypatch.delitem(sys.modules, "internimage.tasks.detection.stored_masks")
    with pytest.raises(ImportError, match=r"need pycocotools, .*: pip install 'internimage\[detection\]'"):
        importlib.import_module("internimage.tasks.detection.stored_masks")
