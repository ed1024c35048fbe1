"""Class lists are those of the data sets, files of classes are read, and what is none is refused with an example."""

import json

import pytest

from internimage.tasks.detection.class_names import classes_of, parse_classes, read_classes
from internimage.tasks.detection.configs import CONFIGS
from internimage.tasks.folders import DatasetError


def test_the_stored_lists() -> None:
    coco = classes_of("COCO")
    assert len(coco) == 80
    assert (coco.names[0], coco.category_ids[0]) == ("person", 1)
    assert (coco.names[79], coco.category_ids[79]) == ("toothbrush", 90)
    assert (coco.names[11], coco.category_ids[11]) == ("stop sign", 13)  # 12 is not in use
    assert list(coco.category_ids) == sorted(set(coco.category_ids))
    assert len(classes_of("Pascal VOC")) == 20
    assert classes_of("CrowdHuman").names == ("person",)
    for config in CONFIGS.values():
        if config.dataset in ("COCO", "CrowdHuman"):
            assert len(classes_of(config.dataset)) == config.num_classes


def test_lists_that_are_not_stored_are_asked_for() -> None:
    with pytest.raises(DatasetError, match="Objects365 are not stored; give them as --classes FILE"):
        classes_of("Objects365")
    with pytest.raises(DatasetError, match="of these weights are not stored"):
        classes_of("")


def test_a_file_of_classes_may_be_a_list_or_an_object(tmp_path) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(["cat", " dog "]))
    assert read_classes(path).names == ("cat", "dog")
    assert read_classes(path).category_ids == (1, 2)
    path.write_text(json.dumps({"names": ["cat", "dog"], "category_ids": [18, 17]}))
    classes = read_classes(path)
    assert classes.category_ids == (18, 17)
    assert parse_classes(classes.to_json(), "again") == classes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "isn't JSON"),
        ("3", "expected a list of names, or an object"),
        ("[]", "must be a list, not empty"),
        ('["a", 3]', '"names" must be a list'),
        ('["a", "a"]', "twice: a"),
        ('["a", " "]', "an empty one"),
        ('{"names": ["a"], "colours": []}', "expected a list of names, or an object"),
        ('{"names": ["a", "b"], "category_ids": [1]}', "as many category_ids as names, got 1 and 2"),
        ('{"names": ["a", "b"], "category_ids": [1, true]}', '"category_ids" must be a list'),
    ],
)
def test_what_is_no_list_of_classes_is_refused(tmp_path, text: str, message: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match=message) as error:
        read_classes(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(DatasetError, match="no such file of classes"):
        read_classes(tmp_path / "classes.json")
