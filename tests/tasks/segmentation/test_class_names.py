"""Names and colours of the published data sets are complete, and a classes.json is read or explained."""

import json

import numpy as np
import pytest

from internimage.tasks.folders import DatasetError
from internimage.tasks.segmentation.class_names import classes_of, colour_map, read_class_file, read_classes
from internimage.tasks.segmentation.layouts import LAYOUTS

pytestmark = pytest.mark.once

COUNTS = {"ade20k": 150, "cityscapes": 19, "cocostuff": 171, "mapillary": 65, "nyu40": 40, "pascal_context59": 59}
# PASCAL VOC's palette as its development kit prints it.
VOC = [
    [0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128], [0, 128, 128], [128, 128, 128],
    [64, 0, 0], [192, 0, 0], [64, 128, 0], [192, 128, 0], [64, 0, 128], [192, 0, 128], [64, 128, 128],
    [192, 128, 128], [0, 64, 0], [128, 64, 0], [0, 192, 0], [128, 192, 0], [0, 64, 128],
]  # fmt: skip


@pytest.mark.parametrize(("dataset", "count"), COUNTS.items())
def test_every_class_of_a_published_data_set_has_a_name_and_a_colour(dataset, count):
    classes = classes_of(dataset)
    assert len(classes) == len(classes.names) == len(set(classes.names)) == count
    assert classes.palette.shape == (count, 3)
    assert classes.palette.dtype == np.uint8


def test_every_layout_names_the_classes_of_a_published_data_set_or_reads_them():
    assert {layout.classes for layout in LAYOUTS.values()} == {None, *COUNTS}


def test_classes_stand_in_the_order_of_the_data_sets():
    ade20k, cocostuff = classes_of("ade20k").names, classes_of("cocostuff").names
    assert (ade20k[0], ade20k[12], ade20k[44], ade20k[149]) == ("wall", "person", "chest of drawers", "flag")
    assert (cocostuff[0], cocostuff[79]) == ("person", "toothbrush")
    assert list(cocostuff[80:]) == sorted(cocostuff[80:])  # stuff stands in the order of the alphabet
    assert (cocostuff[80], cocostuff[170]) == ("banner", "wood")
    assert classes_of("nyu40").names[-3:] == ("otherstructure", "otherfurniture", "otherprop")
    assert classes_of("pascal_context59").names[::58] == ("aeroplane", "wood")


def test_mapillary_takes_the_colours_of_cityscapes_for_the_same_things():
    theirs = classes_of("mapillary")
    colours = dict(zip(theirs.names, theirs.palette.tolist(), strict=True))
    renamed = {"rider": "Bicyclist", "traffic sign": "Traffic Sign (Front)", "train": "On Rails"}
    ours = classes_of("cityscapes")
    for name, colour in zip(ours.names, ours.palette.tolist(), strict=True):
        assert colours[renamed.get(name, name.title())] == colour, name


def test_ade20k_has_the_colours_that_are_seen_in_its_pictures():
    palette = classes_of("ade20k").palette
    assert palette[:3].tolist() == [[120, 120, 120], [180, 120, 120], [6, 230, 230]]
    assert palette[149].tolist() == [92, 0, 255]


def test_the_generated_palette_is_that_of_pascal_voc():
    assert colour_map(21).tolist() == VOC
    assert colour_map(256)[255].tolist() == [224, 224, 192]
    assert len(np.unique(colour_map(256), axis=0)) == 256
    assert classes_of("nyu40").palette[:20].tolist() == VOC[1:]  # black is no class


def test_an_unknown_data_set_is_explained_with_the_nearest():
    with pytest.raises(DatasetError, match=r"'cityscape'.*nearest: cityscapes"):
        classes_of("cityscape")
    with pytest.raises(DatasetError, match=r"nearest: ade20k, cityscapes, cocostuff"):
        classes_of("x")


def write(folder, content):
    path = folder / "classes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_a_file_names_classes_and_colours(tmp_path):
    path = write(tmp_path, {"names": ["Straße", " sky "], "palette": [[1, 2, 3], [255, 0, 9]], "ignore_index": 7})
    file = read_class_file(path)
    assert file.classes.names == read_classes(path).names == ("Straße", "sky")
    assert file.classes.palette.tolist() == [[1, 2, 3], [255, 0, 9]]
    assert (file.has_palette, file.ignore_index, file.reduce_zero_label) == (True, 7, False)


def test_a_file_may_name_classes_alone(tmp_path):
    file = read_class_file(write(tmp_path, "\ufeff" + json.dumps({"names": ["a", "b"]})))
    assert file.classes.palette.tolist() == [[128, 0, 0], [0, 128, 0]]
    assert (file.has_palette, file.ignore_index, file.reduce_zero_label) == (False, 255, False)


def test_255_classes_are_the_most(tmp_path):
    names = [str(label) for label in range(256)]
    assert len(read_classes(write(tmp_path, {"names": names[:255]}))) == 255
    with pytest.raises(DatasetError, match="256 classes, expected 1 to 255: labels have 8 bits"):
        read_classes(write(tmp_path, {"names": names}))
    with pytest.raises(DatasetError, match="the last of 255 classes has no label but 255"):
        read_classes(write(tmp_path, {"names": names[:255], "reduce_zero_label": True}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "isn't JSON"),
        ('{"names": ["a"]', "isn't JSON"),
        (["a", "b"], 'expected an object with a list "names"'),
        ({"classes": ["a"]}, 'expected an object with a list "names"'),
        ({"names": "ab"}, '"names" must be a list of names'),
        ({"names": ["a", 3]}, '"names" must be a list of names'),
        ({"names": ["a", " "]}, '"names" must be a list of names'),
        ({"names": []}, "0 classes, expected 1 to 255"),
        ({"names": ["a", "b", "a"]}, "holds these twice: a"),
        ({"names": ["a"], "pallete": [[0, 0, 0]]}, "unknown key 'pallete', expected names, palette"),
        ({"names": ["a", "b"], "palette": [[0, 0, 0]]}, "1 colours, expected one for each of the 2 classes"),
        ({"names": ["a"], "palette": "red"}, "holds 'red', expected one for each of the 1 classes"),
        ({"names": ["a"], "palette": [[0, 0, 256]]}, r"\[0, 0, 256\], expected \[red, green, blue\] from 0 to 255"),
        ({"names": ["a"], "palette": [[0, 0]]}, r"\[0, 0\], expected"),
        ({"names": ["a"], "palette": [[0.5, 0, 0]]}, "0.5"),
        ({"names": ["a"], "palette": [[True, 0, 0]]}, "True"),
        ({"names": ["a"], "ignore_index": -100}, "ignore_index is -100, expected a value of label files"),
        ({"names": ["a"], "ignore_index": "255"}, "ignore_index is '255'"),
        ({"names": ["a"], "reduce_zero_label": 1}, "reduce_zero_label is 1, expected true or false"),
    ],
)
def test_a_file_that_names_no_classes_is_explained(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(DatasetError, match=message) as error:
        read_classes(path)
    assert str(error.value).startswith(str(path))


def test_a_file_that_cannot_be_read_is_explained(tmp_path):
    (tmp_path / "names.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"no such file of classes.*holds names\.json; expected \{\"names\""):
        read_classes(tmp_path / "classes.json")
    with pytest.raises(DatasetError, match="can't be read as a file of classes"):
        read_classes(tmp_path)
    (tmp_path / "classes.json").write_bytes(b'{"names": ["\xff"]}')
    with pytest.raises(DatasetError, match="can't be read as a file of classes"):
        read_classes(tmp_path / "classes.json")
