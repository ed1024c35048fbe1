"""The registry of released files is complete, consistent with the table of variants, and can be searched."""

import dataclasses
from collections import Counter

import pytest
import torch

from internimage.models import create_model
from internimage.released import BASE_URL, RELEASED, Metric, find, get
from internimage.variants import VARIANTS


@pytest.fixture
def meta_device():
    with torch.device("meta"):
        yield


def test_every_released_file_is_listed_once():
    assert Counter(row.task for row in RELEASED) == {"classification": 12, "detection": 21, "segmentation": 26}
    assert len({row.file for row in RELEASED}) == len({row.name for row in RELEASED}) == len(RELEASED)


def test_rows_are_complete():
    for row in RELEASED:
        assert row.url == f"{BASE_URL}/{row.file}"
        assert row.file.endswith(".pth")
        assert row.variant.removeprefix("cb_") in VARIANTS
        assert f"_{row.variant.rpartition('_')[2]}_" in row.file.replace("cbinternimage", "internimage")
        assert row.licence == "MIT"
        assert all(30 < metric.value < 100 for metric in row.metrics)
        assert all(metric.split for metric in row.metrics)
    with pytest.raises(dataclasses.FrozenInstanceError):
        RELEASED[0].file = "other.pth"


def test_classification_rows_say_what_their_names_say():
    rows = find(task="classification")
    for row in rows:
        variant, tag = row.name.split(".")
        side = int(tag.rpartition("_")[2])
        assert variant == row.variant
        assert row.resolution == (side, side)
        assert row.num_classes == {"ImageNet-1K": 1000, "ImageNet-22K": 21841, "iNaturalist 2018": 8142}[row.dataset]
    assert [row.metrics[0].value for row in rows if row.dataset == "ImageNet-1K"] == [
        *(83.5, 84.2, 84.9),
        *(87.7, 88.0, 89.6, 90.1),
    ]
    assert sum(row.hf_repo is not None for row in rows) == 11


@pytest.mark.parametrize("name", [row.name for row in find(task="classification")])
def test_published_parameter_counts_are_those_of_the_models(name, meta_device):
    row = get(name)
    head = "metadata" if row.dataset == "iNaturalist 2018" else VARIANTS[row.variant].head
    model = create_model(row.variant, num_classes=row.num_classes, head=head)
    assert sum(parameter.numel() for parameter in model.parameters()) == row.parameters


def test_detection_rows_give_box_and_mask_accuracy():
    row = get("cascade_internimage_xl_fpn_3x_coco")
    assert (row.method, row.schedule, row.num_classes) == ("cascade_mask_rcnn", "3x", 80)
    assert row.metrics == (Metric("box AP", 56.2), Metric("mask AP", 48.8))
    assert all(row.num_classes == row.num_labels for row in find(task="detection"))


def test_street_scene_files_carry_classifiers_for_more_classes_than_there_are_labels():
    for row in (*find(dataset="Cityscapes"), *find(dataset="Mapillary Vistas")):
        assert row.num_labels == 19
        assert row.num_classes == (19 if row.method == "mask2former" else 150)
    assert get("upernet_internimage_t_512x1024_160k_cityscapes").metrics == (
        Metric("mIoU", 82.58),
        Metric("mIoU", 83.40, testing="multi-scale"),
    )


def test_files_are_found_by_name_file_stem_or_variant():
    row = get("internimage_l.22kto1k_384")
    assert get("internimage_l_22kto1k_384.pth") is get("internimage_l_22kto1k_384") is get("internimage_l") is row
    assert [row.name for row in find("internimage_*.22k_*")] == ["internimage_l.22k_384", "internimage_xl.22k_384"]
    assert {row.dataset for row in find(variant="internimage_h", task="classification")} == {
        "ImageNet-1K",
        "ImageNet-22K",
        "iNaturalist 2018",
    }
    assert find("no such*") == ()


def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(ValueError, match=r"'internimage_l.22k_385'; nearest: internimage_l.22k_384"):
        get("internimage_l.22k_385")
