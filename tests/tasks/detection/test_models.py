"""Detectors by name."""

from pathlib import Path
from typing import Any

import pytest
import torch

from internimage import load_checkpoint, save_checkpoint
from internimage.released import find
from internimage.tasks import named_models
from internimage.tasks.detection import create_detector, list_detectors
from internimage.tasks.detection.configs import CONFIGS, DetectorConfig, DINOConfig, TwoStageConfig, get_config
from internimage.tasks.detection.models import training_settings

TINY = "mask_rcnn_internimage_t_fpn_1x_coco"
CROWD = "cascade_internimage_xl_fpn_3x_crowd_human"
SMALL: dict[str, Any] = {"channels": 8, "depths": (1, 1, 1, 1), "groups": (1, 2, 4, 8)}


def official(kind: type[DetectorConfig]) -> dict[str, DetectorConfig]:
    return {name: config for name, config in CONFIGS.items() if config.dataset and isinstance(config, kind)}


def test_every_released_two_stage_detector_has_its_configuration() -> None:
    released = {row.config for row in find(task="detection") if row.method != "dino"}
    assert set(official(TwoStageConfig)) == released | {CROWD}
    assert set(list_detectors(pretrained=True)) == released | set(official(DINOConfig))
    assert len(released) == 10
    assert list_detectors("cascade_internimage_l_*") == [f"cascade_internimage_l_fpn_{n}x_coco" for n in (1, 3)]


def test_configurations_say_how_the_official_models_are_built() -> None:
    rates = {name: config.drop_path_rate for name, config in official(TwoStageConfig).items()}
    assert rates.pop("cascade_internimage_xl_fpn_3x_coco") == 0.6
    assert sorted(rates.values()) == [0.2] * 2 + [0.3] * 2 + [0.4] * 6
    config = get_config(CROWD)
    assert (config.num_classes, config.masks, config.class_agnostic, config.box_loss) == (1, False, True, "smooth_l1")
    config = get_config("cascade_internimage_l_fpn_1x_coco")
    assert [stage.iou for stage in config.stages] == [0.5, 0.6, 0.7]
    assert [stage.weight for stage in config.stages] == [1, 0.5, 0.25]
    assert (config.convs, config.fcs, config.box_loss, config.train_proposals) == (4, 1, "giou", 2000)


def test_every_released_dino_has_its_configurations() -> None:
    released = {row.name: row for row in find(task="detection") if row.method == "dino" and row.dataset != "Objects365"}
    configs = official(DINOConfig)
    assert len(configs) == 11
    assert {config.checkpoint for config in configs.values()} == set(released)
    for name, config in configs.items():
        row = released[config.checkpoint]
        assert row.config in (None, name)
        assert (config.dataset, config.num_classes) == (row.dataset, row.num_classes)
        assert config.test_scale == tuple(reversed(row.resolution))
        assert config.composite == ("cbinternimage" in name)
        assert config.variant == f"internimage_{name.split('internimage_')[1].split('_')[0]}"
        large = config.variant in ("internimage_h", "internimage_g")
        assert config.denoising_queries == (1000 if large else 100)
        assert config.drop_path_rate == {"internimage_t": 0.2, "internimage_l": 0.4}.get(config.variant, 0.5)
        assert config.per_image == (100 if config.variant == "internimage_t" else 300)
        assert not config.masks
    assert get_config("dino_4scale_internimage_t_1x_coco").name == "dino_4scale_internimage_t_1x_coco_layer_wise_lr"


def test_small_dino_detectors_are_built_of_a_few_queries() -> None:
    for name in list_detectors("dino_*_small"):
        config = get_config(name)
        with torch.device("meta"):
            model = create_detector(name, num_classes=3)
        assert 64 <= config.channels <= 128
        assert (len(model.encoder.layers), len(model.decoder.layers)) == (3, 3)
        assert 100 <= len(model.query_embed) <= 300
    assert len(list_detectors("dino_*_small")) == 5


def test_overrides_reach_the_composite_backbone() -> None:
    small = {**SMALL, "level2_post_norm_block_ids": (0,)}
    with torch.device("meta"):
        model = create_detector("dino_4scale_cbinternimage_h_objects365_voc07", round_gamma=False, **small)
    assert not model.backbone.round_gamma
    assert model.backbone.feature_info.channels() == [16, 32, 64]
    assert (model.num_classes, model.per_image, model.denoising.queries) == (20, 300, 1000)


def test_settings_of_training_are_the_official_ones() -> None:
    mask, cascade = (training_settings(get_config(name)) for name in (TINY, "cascade_internimage_l_fpn_1x_coco"))
    assert (mask.limits.per_level, mask.limits.per_image, cascade.limits.per_image) == (2000, 1000, 2000)
    assert (mask.rpn.whole_inside, cascade.rpn.whole_inside) == (False, True)
    assert mask.stages[0].assigner.least == 0.5
    assert all(stage.assigner.least is None for stage in cascade.stages)
    assert (mask.stages[0].samples, mask.stages[0].positive_share, mask.rpn.samples) == (512, 0.25, 256)


def test_small_detectors_need_a_number_of_classes() -> None:
    with pytest.raises(ValueError, match="belongs to no data set; give num_classes"):
        create_detector("mask_rcnn_internimage_femto_small")
    with torch.no_grad():
        for method in ("faster_rcnn", "mask_rcnn"):
            model = create_detector(f"{method}_internimage_atto_small", num_classes=3).eval()
            found = model([torch.zeros(3, 64, 90)])[0]
            assert model.has_masks == ("masks" in found) == (method == "mask_rcnn")


@pytest.mark.parametrize("wanted", [None, 4])
def test_official_weights_fit_whatever_the_classes(wanted: int | None, tmp_path: Path, monkeypatch: Any) -> None:
    torch.manual_seed(0)
    official = create_detector(TINY, **SMALL)
    path = save_checkpoint(official, tmp_path / "w.pth", layout="official")
    monkeypatch.setattr(
        named_models, "load_checkpoint", lambda model, source, **options: load_checkpoint(model, path, **options)
    )
    model = create_detector(TINY, True, num_classes=wanted, **SMALL)
    assert model.num_classes == (wanted or 80)
    assert len(model.roi_heads.box_heads[0].classifier.weight) == model.num_classes + 1
    assert len(model.roi_heads.mask_heads[0].classifier.weight) == model.num_classes
    assert torch.equal(model.fpn.laterals[0].weight, official.fpn.laterals[0].weight)
    assert not any(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mask_rcnn_internimage_t_fpn_1x_cocoa"}, f"nearest: {TINY}"),
        ({"name": TINY, "pretrained": True, "checkpoint": "w.pth"}, "either pretrained=True or checkpoint"),
        ({"name": CROWD, "pretrained": True}, "no weights of .* were released"),
    ],
)
def test_what_cannot_be_built_is_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_detector(**arguments)


def test_heads_start_as_the_official_ones() -> None:
    torch.manual_seed(0)
    model = create_detector(TINY, **SMALL)
    box, mask = model.roi_heads.box_heads[0], model.roi_heads.mask_heads[0]
    for weight, std in (
        (model.fpn.smoothing[0].weight, (2 / (18 * 256)) ** 0.5),
        (model.rpn.conv.weight, 0.01),
        (box.classifier.weight, 0.01),
        (box.deltas.weight, 0.001),
        (box.fcs[0].weight, (2 / (12544 + 1024)) ** 0.5),
        (mask.convs[0].conv.weight, (2 / (9 * 256)) ** 0.5),
        (mask.classifier.weight, (2 / 80) ** 0.5),
    ):
        assert weight.std().item() == pytest.approx(std, rel=0.03)
    biases = [bias for name, bias in model.named_parameters() if name.endswith("bias") and "backbone" not in name]
    assert not any(bias.any() for bias in biases)
