"""Every official segmentor's file fits its model, name by name; files that don't fit are explained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden_files import manifest, manifests
from small_segmentors import BACKBONE, METHODS, WIDTHS, small_segmentor
from torch import Tensor

from internimage import load_checkpoint, save_checkpoint
from internimage.backbone import InternImage, InternImageFeatures
from internimage.checkpoint import CheckpointError
from internimage.released import get
from internimage.tasks.segmentation import Segmentor
from internimage.tasks.segmentation.configs import get_config
from internimage.tasks.segmentation.models import build_segmentor
from internimage.tasks.segmentation.upernet import UperNetHead

MANIFESTS = manifests("upernet_*", "segformer_*", "mask2former_*")


def official(model: Segmentor) -> dict[str, Tensor]:
    state = model.state_dict()
    return {name: state[key].clone() for key, name in model.renames.to_official(state).items()}


def same(a: Segmentor, b: Segmentor) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


each_method = pytest.mark.parametrize("method", METHODS)


def test_manifests_of_all_official_segmentors_are_there() -> None:
    assert len(MANIFESTS) == 28


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_official_file_matches_its_model(name: str) -> None:
    shapes = manifest(name)
    config = get_config(name)
    with torch.device("meta"):
        model = build_segmentor(config, config.num_classes)
    ours = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    renames = model.renames
    names = renames.to_official(ours)
    assert {names[key]: shape for key, shape in ours.items()} == shapes
    assert {key: name for name, key in renames.from_official(shapes).items()} == names
    if config.checkpoint:  # published in millions, three of the largest smaller than their files are
        published = get(config.checkpoint).parameters
        assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(published, rel=0.03)


@each_method
def test_official_files_load_strictly(method: str) -> None:
    model, other = small_segmentor(method), small_segmentor(method, seed=1)
    report = load_checkpoint(other, {"state_dict": official(model), "meta": {"CLASSES": ("wall",)}})
    assert same(model, other)
    assert report.origin == "a segmentor"
    assert (report.missing, report.unexpected, report.notes) == ((), (), ())


@each_method
@pytest.mark.parametrize("layout", ["official", "internimage"])
def test_segmentors_survive_a_round_trip(method: str, layout: Any, tmp_path: Path) -> None:
    model, other = small_segmentor(method), small_segmentor(method, seed=1)
    path = save_checkpoint(model, tmp_path / "w", layout=layout)
    load_checkpoint(other, path)
    assert same(model, other)
    if layout == "official":
        content = torch.load(path, weights_only=True)
        assert list(content) == ["state_dict"]
        assert set(content["state_dict"]) == set(official(model))
        assert any(key.startswith("decode_head.") for key in content["state_dict"])


@pytest.mark.parametrize("layout", ["official", "internimage"])
def test_a_backbone_starts_from_a_segmentor_and_the_other_way_round(layout: Any, tmp_path: Path) -> None:
    model = small_segmentor()
    path = save_checkpoint(model, tmp_path / "w", layout=layout)
    backbone = InternImageFeatures(head=None, **BACKBONE)
    load_checkpoint(backbone, path)
    assert all(torch.equal(tensor, model.backbone.state_dict()[key]) for key, tensor in backbone.state_dict().items())
    classifier = save_checkpoint(InternImage(num_classes=3, **BACKBONE), tmp_path / "c", layout=layout)
    with pytest.raises(CheckpointError, match=r"holds a classifier alone; load it into the backbone: load_checkpoint"):
        load_checkpoint(model, classifier)
    load_checkpoint(model.backbone, classifier)


def test_a_segmentor_without_its_auxiliary_head_leaves_it_in_the_file() -> None:
    model = small_segmentor()
    alone = Segmentor(InternImageFeatures(head=None, **BACKBONE), UperNetHead(WIDTHS, 5, channels=8, bins=(1, 3)))
    report = load_checkpoint(alone, official(model))
    assert report.notes == ("left out the file's auxiliary head, which the model was built without",)
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in alone.state_dict().items())


def test_the_first_classes_are_taken_on_request() -> None:
    wide, model = small_segmentor(num_classes=150), small_segmentor(num_classes=19, seed=1)
    with pytest.raises(CheckpointError, match=r"has 150 classes, the model 19; .*classifier='first'"):
        load_checkpoint(model, official(wide))
    report = load_checkpoint(model, official(wide), classifier="first")
    assert report.notes == ("took the first classes of the file's classifier",)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(image), wide(image)[:, :19])
        for got, expected in zip(model.forward_heads(image), wide.forward_heads(image), strict=True):
            torch.testing.assert_close(got, expected[:, :19])
    with pytest.raises(CheckpointError, match="has 5 classes, the model 19"):
        load_checkpoint(model, official(small_segmentor(num_classes=5)), classifier="first")


def test_a_fresh_classifier_is_the_models_own_made_small_segmentor() -> None:
    file, model = small_segmentor(num_classes=7), small_segmentor(seed=1)
    own = {key: tensor.clone() for key, tensor in model.state_dict().items() if ".classifier." in key}
    assert len(own) == 4
    load_checkpoint(model, official(file), classifier="fresh")
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, own[key] * 0.001 if key in own else file.state_dict()[key])


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (lambda: official(small_segmentor("segformer")), "file and model have different heads"),
        (
            lambda: official(small_segmentor(depths=(1, 1, 2, 1))),
            r"another variant: .*depths=\(1, 1, 2, 1\)\), the model like",
        ),
        (lambda: official(small_segmentor(dw_kernel_size=5)), "the option dw_kernel_size"),
        (
            lambda: {**official(small_segmentor()), "decode_head.conv_seg.bias": torch.full((5,), torch.nan)},
            "NaN or infinite",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_explained_and_changes_nothing(file: Any, message: str) -> None:
    model = small_segmentor(seed=1)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(model, file())
    assert same(model, small_segmentor(seed=1))
