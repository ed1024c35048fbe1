"""Every official detector's file fits its model, name by name; files that don't fit are explained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden_files import manifest, manifests
from small_detectors import BACKBONE, METHODS, small_detector, small_dino
from torch import Tensor

from internimage import load_checkpoint, save_checkpoint
from internimage.backbone import InternImageFeatures
from internimage.checkpoint import CheckpointError
from internimage.released import get
from internimage.tasks.detection import DINO, MaskRCNN
from internimage.tasks.detection.configs import get_config
from internimage.tasks.detection.mask_rcnn import DetectorTraining
from internimage.tasks.detection.models import build_detector
from internimage.tasks.detection.roi_heads import RoIHeads

MANIFESTS = manifests("mask_rcnn_*", "cascade_*", "dino_*")
KINDS = (*METHODS, "dino", "composite_dino")
each_kind = pytest.mark.parametrize("kind", KINDS)


def small(kind: str, seed: int = 0) -> MaskRCNN | DINO:
    return small_dino(kind == "composite_dino", seed=seed) if "dino" in kind else small_detector(kind, seed=seed)


def official(model: MaskRCNN | DINO) -> dict[str, Tensor]:
    state = model.state_dict()
    return {name: state[key].clone() for key, name in model.renames.to_official(state).items()}


def same(a: MaskRCNN | DINO, b: MaskRCNN | DINO) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_manifests_of_all_official_detectors_are_there() -> None:
    assert len(MANIFESTS) == 11 + 11


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_official_file_matches_its_model(name: str) -> None:
    shapes = manifest(name)
    config = get_config(name)
    with torch.device("meta"):
        model = build_detector(config, config.num_classes)
    ours = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    renames = model.renames
    names = renames.to_official(ours)
    assert {names[key]: shape for key, shape in ours.items()} == shapes
    assert {key: name for name, key in renames.from_official(shapes).items()} == names
    published = get(config.checkpoint).parameters if config.checkpoint else None
    if published:
        assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(published, rel=0.01)


@each_kind
def test_official_files_load_strictly_whatever_their_moving_average_left(kind: str) -> None:
    model, other = small(kind), small(kind, seed=1)
    state = official(model)
    raw = {f"ema_{key.replace('.', '_')}": torch.full_like(tensor, 7) for key, tensor in state.items()}
    report = load_checkpoint(other, {"state_dict": {**state, **raw}, "meta": {"CLASSES": ("person",)}})
    assert same(model, other)
    assert report.origin == "a detector"
    assert (report.missing, report.unexpected, report.notes) == ((), (), ())


@each_kind
@pytest.mark.parametrize("layout", ["official", "internimage"])
def test_detectors_survive_a_round_trip(kind: str, layout: Any, tmp_path: Path) -> None:
    model, other = small(kind), small(kind, seed=1)
    path = save_checkpoint(model, tmp_path / "w", layout=layout)
    load_checkpoint(other, path)
    assert same(model, other)
    if layout == "official":
        assert set(torch.load(path, weights_only=True)["state_dict"]) == set(official(model))


@pytest.mark.parametrize("kind", ["mask", "dino"])
def test_a_backbone_starts_from_a_detector(kind: str) -> None:
    model = small(kind)
    backbone = InternImageFeatures(head=None, **BACKBONE)
    load_checkpoint(backbone, official(model))
    assert all(torch.equal(tensor, model.backbone.state_dict()[key]) for key, tensor in backbone.state_dict().items())


def test_a_detector_without_mask_heads_leaves_them_in_the_file() -> None:
    model, other = small_detector(), small_detector(seed=1)
    settings: DetectorTraining = other.training_settings
    heads = RoIHeads(list(other.roi_heads.box_heads))
    alone = MaskRCNN(other.backbone, other.fpn, other.rpn, heads, training=settings)
    report = load_checkpoint(alone, official(model))
    assert report.notes == ("left out the file's mask heads, which the model was built without",)
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in alone.state_dict().items())


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (lambda: official(small_detector("cascade")), "file and model have different heads"),
        (lambda: official(small_detector(num_classes=7)), "the file has 7 classes, the model 5; .* num_classes=7"),
        (lambda: official(small_detector(depths=(1, 1, 2, 1))), "another variant: "),
        (
            lambda: {**official(small_detector()), "rpn_head.rpn_cls.bias": torch.full((3,), torch.nan)},
            "NaN or infinite",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_explained_and_changes_nothing(file: Any, message: str) -> None:
    model = small_detector(seed=1)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(model, file())
    assert same(model, small_detector(seed=1))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (lambda: official(small_dino(num_classes=7)), "the file has 7 classes, the model 5; .* num_classes=7"),
        (lambda: official(small_dino(composite=True)), "one of file and model has the composite backbone"),
        (lambda: official(small_detector()), "file and model have different heads"),
    ],
)
def test_a_file_that_is_of_another_dino_is_explained_and_changes_nothing(file: Any, message: str) -> None:
    model = small_dino(seed=1)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(model, file())
    assert same(model, small_dino(seed=1))


def test_a_file_of_a_single_backbone_does_not_fit_the_composite_one() -> None:
    with pytest.raises(CheckpointError, match="one of file and model has the composite backbone"):
        load_checkpoint(small_dino(composite=True), official(small_dino()))
