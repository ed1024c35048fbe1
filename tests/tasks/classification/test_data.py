"""Data sets are recognised by what lies in a folder, labels follow the class list, and what is wrong is named."""

import json
import logging
import math
import os
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internimage.tasks.classification.class_list import read_class_file
from internimage.tasks.classification.data import Dataset, open_dataset
from internimage.tasks.folders import DatasetError
from internimage.tasks.images import decode_image
from internimage.tasks.training import shards
from internimage.tasks.training.shard_index import ShardError
from internimage.tasks.training.shards import write_shards

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def close_shards() -> Iterator[None]:
    yield
    shards._open.cache_clear()


def picture(grey: int, suffix: str = ".png") -> bytes:
    """A picture that its grey tells from others."""
    written, data = cv2.imencode(suffix, np.full((5, 7, 3), grey, np.uint8))
    assert written
    return data.tobytes()


def grey(sample_data: bytes) -> int:
    return int(decode_image(sample_data, "x")[0, 0, 0])


def put(root: Path, *names: str) -> None:
    """Pictures under these names, the grey of each its place in the list."""
    for place, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(place) if path.suffix != ".jpg" else picture(place, ".jpg"))


def contents(dataset: Dataset, root: Path | None = None) -> list[tuple[str, str]]:
    """Name and class of each sample."""
    rows = []
    for index in range(len(dataset)):
        sample = dataset[index]
        assert sample.name == dataset.name(index)
        assert sample.label == dataset.labels()[index]
        name = sample.name if root is None else str(Path(sample.name).relative_to(root))
        rows.append((name, dataset.classes[sample.label]))
    assert sum(dataset.sizes) == len(dataset)
    return rows


# Folders of classes


def test_each_picture_has_the_class_of_its_folder_and_the_classes_are_sorted(tmp_path):
    put(
        tmp_path,
        "train/dog/2.png",
        "train/dog/1.jpg",
        "train/cat/9.webp",
        "train/Zebra/deep/er/x.JPEG",
        "val/cat/1.png",
    )
    (tmp_path / "train/dog/notes.txt").write_text("no picture")
    train = open_dataset(tmp_path, "train")
    assert list(train.classes) == ["Zebra", "cat", "dog"]
    assert contents(train, tmp_path / "train") == [
        ("Zebra/deep/er/x.JPEG", "Zebra"),
        ("cat/9.webp", "cat"),
        ("dog/1.jpg", "dog"),
        ("dog/2.png", "dog"),
    ]
    assert [grey(train[i].data) for i in range(4)] == [3, 2, 1, 0]
    assert train.labels().tolist() == [0, 1, 2, 2]
    assert train.labels().dtype == np.int64
    assert train.sizes == [4]
    assert train[0].metadata == ()


NAMES = st.text("abXé1_-é .", min_size=1, max_size=6).filter(lambda name: not name.startswith(".") and name.strip())


@given(st.dictionaries(NAMES, st.sets(NAMES, min_size=1, max_size=4), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_every_picture_of_every_class_is_found_once(tmp_path_factory, folders):
    root = tmp_path_factory.mktemp("folders")
    for folder, names in folders.items():
        (root / "val" / folder).mkdir(parents=True)
        for name in names:
            (root / "val" / folder / f"{name}.png").write_bytes(b"")
    found = contents(open_dataset(root, "val"), root / "val")
    assert found == [
        (f"{folder}/{name}.png", folder) for folder in sorted(folders) for name in by_bytes(folders[folder])
    ]


def by_bytes(names: set[str]) -> list[str]:
    return sorted(names, key=lambda name: f"{name}.png".encode())


def test_symbolic_links_are_followed_and_hidden_names_passed_over(tmp_path):
    put(tmp_path, "store/1.png", "store/2.png", "train/dog/3.png", "train/dog/._3.png", "train/.cache/x/4.png")
    (tmp_path / "train/cat").symlink_to(tmp_path / "store")
    (tmp_path / "train/dog/linked.png").symlink_to(tmp_path / "store/1.png")
    train = open_dataset(tmp_path, "train")
    names = [name for name, _ in contents(train, tmp_path / "train")]
    assert names == ["cat/1.png", "cat/2.png", "dog/3.png", "dog/linked.png"]
    assert [grey(train[i].data) for i in range(4)] == [0, 1, 2, 0]


def test_scanning_asks_the_disk_about_no_single_file(tmp_path, monkeypatch):
    put(tmp_path, *(f"train/{name}/{i}.png" for name in "abc" for i in range(20)))
    asked: list[str] = []
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda path, *a, **k: asked.append(str(path)) or real(path, *a, **k))
    assert len(open_dataset(tmp_path, "train")) == 60
    assert not [path for path in asked if path.endswith(".png")]


def test_a_data_set_is_compact_and_pickles(tmp_path):
    put(tmp_path, *(f"train/n{name:08}/n{name:08}_{i}.png" for name in range(2) for i in range(100)))
    train = open_dataset(tmp_path, "train")
    pickled = pickle.dumps(train)
    assert len(pickled) < 200 * (len("n00000001/n00000001_99.png") + 8) + 2000
    assert contents(pickle.loads(pickled)) == contents(train)


def test_a_class_without_pictures_is_an_error_for_train_alone(tmp_path):
    put(tmp_path, "train/cat/1.png", "val/cat/1.png")
    for split in ("train", "val"):
        (tmp_path / split / "dog").mkdir()
    with pytest.raises(DatasetError, match="1 of 2 classes have no picture to learn from: dog; add"):
        open_dataset(tmp_path, "train")
    assert contents(open_dataset(tmp_path, "val"), tmp_path / "val") == [("cat/1.png", "cat")]


def test_no_picture_at_all_is_an_error_for_any_split(tmp_path):
    (tmp_path / "val/dog").mkdir(parents=True)
    with pytest.raises(DatasetError, match="val: holds no picture of the 1 classes dog"):
        open_dataset(tmp_path, "val")


# The class list


@pytest.mark.parametrize("name", ["classes.txt", "classes.json"])
def test_a_class_file_fixes_the_order_and_leaves_others_out_with_one_warning(tmp_path, caplog, name):
    put(tmp_path, "train/ant/1.png", "train/bee/2.png", "train/cat/3.png", "train/dog/4.png")
    file = tmp_path / name
    file.write_text(
        '["dog", "bee"]' if name.endswith("json") else "\ufeffdog\tCanis familiaris\r\n\r\nbee\r\n", "utf-8"
    )
    with caplog.at_level(logging.WARNING):
        train = open_dataset(tmp_path, "train", classes=file)
    assert list(train.classes) == ["dog", "bee"]
    assert contents(train, tmp_path / "train") == [("bee/2.png", "bee"), ("dog/4.png", "dog")]
    assert train.labels().tolist() == [1, 0]
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        f"left out classes that are not in {file}: ant, cat"
    ]


def test_a_list_gives_the_labels_of_the_training_data_to_another_split(tmp_path):
    put(tmp_path, "train/ant/1.png", "train/bee/2.png", "train/cat/3.png", "val/cat/3.png")
    train = open_dataset(tmp_path, "train")
    val = open_dataset(tmp_path, "val", classes=train.classes)
    assert val.classes == train.classes
    assert val.labels().tolist() == [2]


def test_a_class_that_the_training_data_lacks_is_an_error(tmp_path):
    put(tmp_path, "train/ant/1.png", "val/ant/1.png", "val/bug/2.png")
    train = open_dataset(tmp_path, "train")
    with pytest.raises(
        DatasetError, match=r"classes that are not in the list of classes .*: bug; remove them, or choose"
    ):
        open_dataset(tmp_path, "val", classes=train.classes)


def test_listed_classes_without_pictures_are_an_error_for_train_alone(tmp_path):
    put(tmp_path, "train/ant/1.png", "val/ant/1.png")
    listed = [f"c{i:02}" for i in range(12)] + ["ant"]
    with pytest.raises(DatasetError, match=r"12 of 13 classes have no picture to learn from: c00, .*, c09 and 2 more"):
        open_dataset(tmp_path, "train", classes=listed)
    assert open_dataset(tmp_path, "val", classes=listed).labels().tolist() == [12]


def test_classes_named_twice_are_refused(tmp_path):
    put(tmp_path, "train/ant/1.png")
    with pytest.raises(DatasetError, match="the list of classes: names classes twice: ant"):
        open_dataset(tmp_path, "train", classes=["ant", "bee", "ant"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.txt", b"", "holds no class id"),
        ("c.txt", b"\n \n", "holds no class id"),
        ("c.txt", b"\xff\xfe\x00", "can't be read as a class file"),
        ("c.json", b"[", "can't be read as a class file"),
        ("c.json", b"[]", "holds no class id"),
        ("c.json", b'{"a": 1}', "expected a JSON list of class ids"),
        ("c.json", b"[1, 2]", "expected a JSON list of class ids"),
    ],
)
def test_a_file_that_is_no_class_list_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=f"{name}: {message}"):
        read_class_file(tmp_path / name)


def test_a_missing_class_file_is_an_error_that_shows_what_is_there(tmp_path):
    (tmp_path / "classes.txt").write_text("ant")
    with pytest.raises(FileNotFoundError, match=r"class\.txt: no such class file; .* holds classes\.txt$"):
        read_class_file(tmp_path / "class.txt")


# What lies in the folder


def test_a_missing_folder_is_an_error_that_shows_what_is_there(tmp_path):
    (tmp_path / "imagenet").mkdir()
    with pytest.raises(FileNotFoundError, match=r"imagenet1k: no such folder; .* holds imagenet/$"):
        open_dataset(tmp_path / "imagenet1k", "train")
    with pytest.raises(FileNotFoundError, match=r"x: no such folder$"):
        open_dataset(tmp_path / "nowhere" / "x", "train")


def test_an_unknown_layout_is_an_error_that_names_the_known_ones(tmp_path):
    put(tmp_path, "training/ant/1.png")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(
        DatasetError,
        match=r"holds no data called train, but notes\.txt, training/; expected train/<class>/\*\.jpg .*, tar shards "
        r"train\*\.tar or train/\*\.tar, or train2018\.json",
    ):
        open_dataset(tmp_path, "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="but nothing; expected"):
        open_dataset(tmp_path / "empty", "train")


def test_class_folders_without_a_split_are_explained(tmp_path):
    put(tmp_path, "ant/1.png", "bee/2.png")
    (tmp_path / "logs").mkdir()
    with pytest.raises(
        DatasetError, match=r"the folders of classes \(ant, bee\) must lie in .*/train: move them there"
    ):
        open_dataset(tmp_path, "train")


def test_pictures_without_class_folders_are_explained(tmp_path):
    put(tmp_path, *(f"val/ILSVRC2012_val_{i:08}.png" for i in range(12)))
    with pytest.raises(
        DatasetError, match=r"val: holds no class folder, but ILSVRC2012_val_00000000.* and 2 more; expected"
    ):
        open_dataset(tmp_path, "val")


def test_compressed_shards_are_explained(tmp_path):
    (tmp_path / "train-000.tar.gz").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"train-000\.tar\.gz is compressed: store tar shards uncompressed"):
        open_dataset(tmp_path, "train")


# Tar shards


def write(
    folder: Path, labels: Sequence[str | bytes], split: str = "train", suffix: str = "png", per_shard: int = 3
) -> None:
    samples = (
        (f"k{i:02}", {suffix: picture(i), "cls": label.encode() if isinstance(label, str) else label, "json": b"{}"})
        for i, label in enumerate(labels)
    )
    write_shards(samples, folder / f"{split}-%03d.tar", samples_per_shard=per_shard)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp"])
def test_shards_hold_pictures_with_the_numbers_of_their_labels(tmp_path, inside, suffix):
    write(tmp_path / "train" if inside else tmp_path, ["2", "0", "0\n", "10"], "x" if inside else "train", suffix)
    train = open_dataset(tmp_path, "train")
    assert list(train.classes) == [str(i) for i in range(11)]
    assert train.labels().tolist() == [2, 0, 0, 10]
    assert train.labels().dtype == np.int64
    assert train.sizes == [3, 1]
    assert [grey(train[i].data) for i in range(4)] == [0, 1, 2, 3]
    name = "x" if inside else "train"
    assert [row[0] for row in contents(train)] == [f"{name}-{i // 3:03}.tar/k{i:02}" for i in range(4)]


def test_shards_hold_pictures_with_the_ids_of_their_classes(tmp_path):
    write(tmp_path, ["n02", "n01", "é", "n01", "10"])
    train = open_dataset(tmp_path, "train")
    assert list(train.classes) == ["10", "n01", "n02", "é"]
    assert train.labels().tolist() == [2, 1, 3, 1, 0]


def test_long_ids_of_classes_are_read(tmp_path):
    write(tmp_path, ["b" * 200, "a" * 300, "b" * 200])
    assert open_dataset(tmp_path, "train").labels().tolist() == [1, 0, 1]


def test_a_class_file_leaves_samples_of_shards_out(tmp_path, caplog):
    write(tmp_path, ["ant", "bee", "ant", "ant", "cat", "dog", "bee"])
    (tmp_path / "classes.txt").write_text("dog\nbee")
    with caplog.at_level(logging.WARNING):
        train = open_dataset(tmp_path, "train", classes=tmp_path / "classes.txt")
    assert train.sizes == [1, 1, 1]
    assert [grey(train[i].data) for i in range(3)] == [1, 5, 6]
    assert contents(train) == [("train-000.tar/k01", "bee"), ("train-001.tar/k05", "dog"), ("train-002.tar/k06", "bee")]
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["ant, cat"]


def test_numbers_in_shards_count_in_the_class_list(tmp_path):
    write(tmp_path, ["1", "0", "bee"])
    assert open_dataset(tmp_path, "train", classes=["bee", "ant"]).labels().tolist() == [1, 0, 0]


def test_a_class_whose_id_is_a_number_is_found_by_it(tmp_path):
    write(tmp_path, ["10", "2", "10"])
    assert open_dataset(tmp_path, "train", classes=["10", "2"]).labels().tolist() == [0, 1, 0]


@pytest.mark.parametrize("label", ["2", "-1", "99999999999999999999"])
def test_a_label_out_of_range_is_an_error(tmp_path, label):
    write(tmp_path, ["0", "1", label])
    with pytest.raises(DatasetError, match=f"label {label} is out of range, expected 0 or more and less than 2"):
        open_dataset(tmp_path, "train", classes=["ant", "bee"])
    if label != "2":
        with pytest.raises(DatasetError, match=f"label {label} is out of range"):
            open_dataset(tmp_path, "train")


def test_an_empty_label_is_an_error_that_names_the_sample(tmp_path):
    write(tmp_path, ["0", "1", "1", " \n"])
    with pytest.raises(DatasetError, match=r"train-001\.tar/k03: its cls is empty"):
        open_dataset(tmp_path, "train")


def test_shards_with_a_class_that_the_training_data_lacks_are_an_error(tmp_path):
    write(tmp_path, ["ant", "bug"], "val")
    with pytest.raises(DatasetError, match=r"holds classes that are not in the list of classes .*: bug"):
        open_dataset(tmp_path, "val", classes=["ant", "bee"])


def test_listed_classes_without_samples_in_shards_are_an_error_for_train_alone(tmp_path):
    write(tmp_path, ["ant", "cat"])
    write(tmp_path, ["ant", "cat"], "val")
    with pytest.raises(DatasetError, match="1 of 3 classes have no picture to learn from: bee"):
        open_dataset(tmp_path, "train", classes=["ant", "bee", "cat"])
    assert open_dataset(tmp_path, "val", classes=["ant", "bee", "cat"]).labels().tolist() == [0, 2]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"jpg": b"x"}, r"train-0\.tar/b: has no member cls; it has jpg"),
        ({"gif": b"x", "cls": b"0"}, r"train-0\.tar/b: has no member jpg or jpeg or png or webp; it has cls, gif"),
    ],
)
def test_a_sample_without_label_or_picture_is_an_error_when_the_data_is_opened(tmp_path, members, message):
    write_shards([("a", {"jpg": b"x", "cls": b"0"}), ("b", members)], tmp_path / "train-%d.tar", samples_per_shard=9)
    with pytest.raises(ShardError, match=message):
        open_dataset(tmp_path, "train")


def test_shards_pickle(tmp_path):
    write(tmp_path, ["0", "1", "2", "0"])
    train = open_dataset(tmp_path, "train")
    assert contents(pickle.loads(pickle.dumps(train))) == contents(train)


# iNaturalist 2018


def write_inaturalist(folder: Path, split: str = "train", **changes: object) -> None:
    """Three pictures of the species 7 and 30, in an order of their own."""
    names = ["train_val2018/Aves/30/a.jpg", "train_val2018/Plantae/7/b.jpg", "train_val2018/Aves/30/c.jpg"]
    put(folder, *names)
    content = {
        "info": {"year": 2018},
        "images": [{"id": 11 + i, "file_name": name, "width": 7} for i, name in enumerate(names)],
        "annotations": [
            {"id": 1, "image_id": 11 + i, "category_id": c} for i, c in reversed([*enumerate((30, 7, 30))])
        ],
        "categories": [{"id": 30, "name": "Turdus merula"}, {"id": 7, "name": "Rosa canina"}],
    }
    content = {name: part for name, part in {**content, **changes}.items() if part is not None}
    (folder / f"{split}2018.json").write_text(json.dumps(content))


@pytest.mark.parametrize("with_categories", [True, False])
def test_annotations_give_the_species_of_pictures(tmp_path, with_categories):
    write_inaturalist(tmp_path, **({} if with_categories else {"categories": None}))
    train = open_dataset(tmp_path, "train")
    assert list(train.classes) == ["7", "30"]
    assert contents(train, tmp_path) == [
        ("train_val2018/Aves/30/a.jpg", "30"),
        ("train_val2018/Plantae/7/b.jpg", "7"),
        ("train_val2018/Aves/30/c.jpg", "30"),
    ]
    assert [grey(train[i].data) for i in range(3)] == [0, 1, 2]


def test_locations_give_month_and_place_where_they_are_known(tmp_path):
    write_inaturalist(tmp_path)
    rows = [
        {"id": 13, "date": "2017-12-01 10:00:00+00:00", "lat": -33.5, "lon": 151, "loc_uncert": 5, "user_id": 3},
        {"id": 11, "date": None, "lat": None, "lon": None, "loc_uncert": None, "user_id": 4},
        {"id": 99, "date": "2015-01-01", "lat": 0.0, "lon": 0.0},
    ]
    (tmp_path / "train2018_locations.json").write_text(json.dumps(rows))
    train = open_dataset(tmp_path, "train")
    nothing = pytest.approx((math.nan,) * 3, nan_ok=True)
    assert [train[i].metadata for i in range(3)] == [nothing, nothing, (12.0, -33.5, 151.0)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"date": "2017-5-21"}, (5, 1, 2)),
        ({"date": "2017-00-00"}, (math.nan, 1, 2)),
        ({"date": "2017-13-01"}, (math.nan, 1, 2)),
        ({"date": "yesterday"}, (math.nan, 1, 2)),
        ({"date": ""}, (math.nan, 1, 2)),
        ({"lon": None}, (1, math.nan, math.nan)),
        ({"lat": 91}, (1, math.nan, math.nan)),
        ({"lon": -181}, (1, math.nan, math.nan)),
        ({"lat": math.nan}, (1, math.nan, math.nan)),
    ],
)
def test_what_can_be_no_date_or_place_counts_as_unknown(tmp_path, row, expected):
    write_inaturalist(tmp_path)
    locations = [{"id": 11, "date": "2017-01-21", "lat": 1, "lon": 2} | row]
    (tmp_path / "train2018_locations.json").write_text(json.dumps(locations))
    assert open_dataset(tmp_path, "train")[0].metadata == pytest.approx(expected, nan_ok=True)


def test_without_locations_nothing_is_known_of_any_picture(tmp_path):
    write_inaturalist(tmp_path)
    train = open_dataset(tmp_path, "train")
    assert all(np.isnan(train[i].metadata).tolist() == [True] * 3 for i in range(3))


def test_the_classes_of_another_split_are_those_of_the_training_data(tmp_path):
    write_inaturalist(tmp_path)
    train = open_dataset(tmp_path, "train")
    write_inaturalist(tmp_path, "val", categories=None)
    assert open_dataset(tmp_path, "val", classes=train.classes).labels().tolist() == [1, 0, 1]
    with pytest.raises(DatasetError, match=r"holds classes that are not in the list of classes .*: 30"):
        open_dataset(tmp_path, "val", classes=["7"])


def test_a_class_file_leaves_species_out(tmp_path, caplog):
    write_inaturalist(tmp_path)
    (tmp_path / "classes.txt").write_text("30\tTurdus merula\n")
    (tmp_path / "train2018_locations.json").write_text('[{"id": 13, "date": "2017-03-01", "lat": 1, "lon": 2}]')
    train = open_dataset(tmp_path, "train", classes=tmp_path / "classes.txt")
    assert [name for name, _ in contents(train, tmp_path)] == [
        "train_val2018/Aves/30/a.jpg",
        "train_val2018/Aves/30/c.jpg",
    ]
    assert train[1].metadata == (3, 1, 2)
    assert "not in" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"images": None},
        {"annotations": None},
        {"images": [{"file_name": "a.jpg"}]},
        {"images": [{"id": 11, "file_name": 5}]},
        {"annotations": [{"image_id": 11, "category_id": "rose"}]},
        {"categories": [{"name": "rose"}]},
        {"categories": 5},
        {"images": 5},
    ],
)
def test_json_of_another_layout_is_refused(tmp_path, changes):
    write_inaturalist(tmp_path, **changes)
    with pytest.raises(DatasetError, match=r"train2018\.json: not the layout of iNaturalist 2018 .*, expected"):
        open_dataset(tmp_path, "train")


@pytest.mark.parametrize("content", ["", "[1, 2", "[" * 100000])
def test_what_is_no_json_is_refused(tmp_path, content):
    (tmp_path / "train2018.json").write_text(content)
    with pytest.raises(DatasetError, match=r"train2018\.json: can't be read as JSON"):
        open_dataset(tmp_path, "train")


@pytest.mark.parametrize(
    "content", ["5", '{"id": 1}', "[1]", '[{"id": 1}]', '[{"id": 1, "date": 5, "lat": 1, "lon": 1}]']
)
def test_locations_of_another_layout_are_refused(tmp_path, content):
    write_inaturalist(tmp_path)
    (tmp_path / "train2018_locations.json").write_text(content)
    with pytest.raises(DatasetError, match=r"train2018_locations\.json: not the locations of iNaturalist 2018"):
        open_dataset(tmp_path, "train")


def test_annotations_must_fit_the_images_one_to_one(tmp_path):
    first = {"image_id": 11, "category_id": 7}
    both = [first, {"image_id": 12, "category_id": 7}, {"image_id": 13, "category_id": 7}]
    for annotations, message in [
        ([first], "or the reverse: 12, 13"),
        ([*both, {"image_id": 14, "category_id": 7}], "or the reverse: 14"),
        ([*both, first], "none, but some occur twice"),
    ]:
        write_inaturalist(tmp_path, annotations=annotations)
        with pytest.raises(DatasetError, match=f"expected each image once and with one annotation.*{message}"):
            open_dataset(tmp_path, "train")
    write_inaturalist(tmp_path, categories=[{"id": 7}])
    with pytest.raises(DatasetError, match="annotations name categories that it doesn't list: 30"):
        open_dataset(tmp_path, "train")


def test_listed_species_without_pictures_are_an_error_for_train_alone(tmp_path):
    categories = [{"id": 7}, {"id": 8}, {"id": 30}]
    write_inaturalist(tmp_path, categories=categories)
    with pytest.raises(DatasetError, match="1 of 3 classes have no picture to learn from: 8"):
        open_dataset(tmp_path, "train")
    write_inaturalist(tmp_path, "val", categories=categories)
    assert open_dataset(tmp_path, "val").labels().tolist() == [2, 0, 2]


def test_missing_pictures_are_counted_and_the_first_ten_named(tmp_path):
    images = [{"id": i, "file_name": f"pictures/{i % 2}/{i:02}.jpg"} for i in range(30)]
    write_inaturalist(tmp_path, images=images, annotations=[{"image_id": i, "category_id": 7} for i in range(30)])
    put(tmp_path, *(f"pictures/0/{i:02}.jpg" for i in range(0, 30, 2) if i != 4))
    with pytest.raises(
        DatasetError,
        match=r"16 pictures that train2018\.json names are missing: pictures/0/04\.jpg, .*17\.jpg and 6 more",
    ):
        open_dataset(tmp_path, "train")


def test_a_split_without_images_is_an_error(tmp_path):
    write_inaturalist(tmp_path, images=[], annotations=[])
    with pytest.raises(DatasetError, match="holds no picture of the 2 classes 7, 30"):
        open_dataset(tmp_path, "train")
