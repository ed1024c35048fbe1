"""Segmentors by name."""

from pathlib import Path
from typing import Any

import pytest
import torch

from internimage import load_checkpoint, save_checkpoint
from internimage.released import find
from internimage.tasks import named_models
from internimage.tasks.segmentation import Segmentor, create_segmentor, list_segmentors
from internimage.tasks.segmentation.configs import CONFIGS, get_config

TINY = "upernet_internimage_t_512_160k_ade20k"
STREETS = "segformer_internimage_l_512x1024_80k_mapillary"
SMALL: dict[str, Any] = {"channels": 8, "depths": (1, 1, 1, 1), "groups": (1, 2, 4, 8)}


def test_every_released_segmentor_has_its_configuration() -> None:
    released = {row.config: row for row in find(task="segmentation")}
    without = {"upernet_internimage_g_896_160k_ade20k", "mask2former_internimage_h_896_80k_cocostuff2ade20k_ms"}
    assert {name for name, config in CONFIGS.items() if config.dataset} == set(released) | without
    assert list_segmentors("segformer_*_160k_*") == [
        "segformer_internimage_l_512x1024_160k_mapillary2cityscapes",
        "segformer_internimage_xl_512x1024_160k_mapillary2cityscapes",
    ]
    official = {name for name in list_segmentors() if not name.endswith("_small")}
    assert len(official) == 28
    assert set(list_segmentors(pretrained=True)) == official - {"upernet_internimage_g_896_160k_ade20k"}


def test_small_segmentors_need_a_number_of_classes():
    with pytest.raises(ValueError, match="belongs to no data set; give num_classes"):
        create_segmentor("upernet_internimage_femto_small")
    for method in ("upernet", "segformer", "mask2former"):
        model = create_segmentor(f"{method}_internimage_atto_small", num_classes=3).eval()
        assert model(torch.zeros(1, 3, 64, 96)).shape == (1, 3, 64, 96)


def test_configurations_say_how_the_official_models_are_trained_and_tested() -> None:
    config = get_config(TINY)
    assert (config.drop_path_rate, config.crop, config.test_scale, config.divisor) == (0.2, (512, 512), (2048, 512), 32)
    config = get_config(STREETS)
    assert (config.num_classes, config.num_labels, config.test_scale, config.divisor) == (150, 19, (2048, 1024), 1)
    config = get_config("mask2former_internimage_h_896x896_80k_mapillary")
    assert (config.window, config.window_stride, config.head) == ((896, 896), (512, 512), {})
    config = get_config("mask2former_internimage_h_480_40k_pascal_context_59")
    assert (config.test_scale, config.num_classes, config.window) == ((4096, 520), 59, None)
    config = get_config("mask2former_internimage_h_896_80k_cocostuff2ade20k_ms")
    assert (config.head["queries"], config.mirrored, len(config.test_factors)) == (200, True, 5)


def test_a_file_name_stands_for_its_configuration() -> None:
    assert get_config("mask2former_internimage_h_896_80k_cocostuff2ade20k").name.endswith("_ss")


def test_street_scenes_have_the_classes_that_occur() -> None:
    with torch.device("meta"):
        assert create_segmentor(STREETS, **SMALL).num_classes == 19
        assert create_segmentor(STREETS, num_classes=150, **SMALL).num_classes == 150
        assert create_segmentor(TINY, **SMALL).num_classes == 150


@pytest.mark.parametrize("wanted", [None, 19, 150, 4])
def test_official_weights_fit_whatever_the_classes(wanted: int | None, tmp_path: Path, monkeypatch: Any) -> None:
    torch.manual_seed(0)
    official = create_segmentor(STREETS, num_classes=150, **SMALL)
    path = save_checkpoint(official, tmp_path / "w.pth", layout="official")
    monkeypatch.setattr(
        named_models, "load_checkpoint", lambda model, source, **options: load_checkpoint(model, path, **options)
    )
    model = create_segmentor(STREETS, True, num_classes=wanted, **SMALL)
    rows = 19 if wanted is None else wanted
    assert model.num_classes == len(model.head.classifier.weight) == rows
    if rows != 4:
        assert torch.equal(model.head.classifier.weight, official.head.classifier.weight[:rows])
    assert torch.equal(model.head.fusion.conv.weight, official.head.fusion.conv.weight)
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_own_files_load_with_their_classes(tmp_path: Path) -> None:
    path = save_checkpoint(create_segmentor(TINY, num_classes=3, **SMALL), tmp_path / "w.safetensors")
    model = create_segmentor(TINY, checkpoint=path, num_classes=3, **SMALL)
    assert model.num_classes == 3
    with pytest.raises(ValueError, match="the file has 3 classes, the model 150"):
        create_segmentor(TINY, checkpoint=path, **SMALL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "upernet_internimage_t_512_160k_ade2k"}, f"nearest: {TINY}"),
        ({"name": TINY, "pretrained": True, "checkpoint": "w.pth"}, "either pretrained=True or checkpoint"),
        ({"name": "upernet_internimage_g_896_160k_ade20k", "pretrained": True}, "no weights of .* were released"),
    ],
)
def test_what_cannot_be_built_is_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_segmentor(**arguments)


@pytest.mark.parametrize("method", ["upernet", "segformer", "mask2former"])
def test_a_fresh_classifier_keeps_device_and_dtype(method: str) -> None:
    name = next(name for name in list_segmentors(f"{method}_*") if get_config(name).head == {})
    model: Segmentor = create_segmentor(name, level2_post_norm_block_ids=(), **SMALL).double()
    model.reset_classifier(3)
    assert model.num_classes == 3
    assert model.eval()(torch.zeros(1, 3, 32, 32).double()).shape == (1, 3, 32, 32)
