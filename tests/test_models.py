"""Models by name."""

from pathlib import Path
from typing import Any

import pytest
import torch

from internimage.backbone import InternImageFeatures
from internimage.checkpoint import save_checkpoint
from internimage.models import create_model, list_models
from internimage.variants import VARIANTS

SMALL: dict[str, Any] = {"channels": 8, "depths": (1, 1, 1, 1), "groups": (1, 2, 4, 8)}


def test_names_are_listed_by_wildcard() -> None:
    assert list_models() == list(VARIANTS)
    assert list_models("internimage_[tsb]") == ["internimage_t", "internimage_s", "internimage_b"]
    assert list_models("resnet*") == []


def test_official_weights_are_listed_by_variant_and_tag() -> None:
    names = list_models(pretrained=True)
    assert len(names) == 12
    assert "internimage_t.in1k_224" in names
    assert {name.partition(".")[0] for name in names} <= set(VARIANTS)
    assert list_models("internimage_l*", pretrained=True) == ["internimage_l.22kto1k_384", "internimage_l.22k_384"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("internimage_tt", "did you mean internimage_t"),
        ("resnet50", "unknown model 'resnet50'.* internimage_t "),
        ("internimage_t.in1k_224", "add pretrained=True"),
    ],
)
def test_unknown_names_are_answered_with_known_ones(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(name)


def test_weights_that_were_never_released_are_refused() -> None:
    with pytest.raises(ValueError, match="internimage_atto"):
        create_model("internimage_atto", pretrained=True)
    with pytest.raises(ValueError, match="either pretrained=True or checkpoint"):
        create_model("internimage_t", pretrained=True, checkpoint="file.pth")


def test_overrides_replace_the_variants_arguments() -> None:
    model = create_model("internimage_atto", num_classes=10, in_chans=1, drop_path_rate=0.2, depths=(1, 1, 2, 1))
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    assert [len(stage.blocks) for stage in model.stages] == [1, 1, 2, 1]


def test_a_model_without_values_gives_the_shape_of_its_result() -> None:
    with torch.device("meta"):
        assert create_model("internimage_t")(torch.empty(2, 3, 64, 64)).shape == (2, 1000)


def test_the_configuration_says_how_to_prepare_images() -> None:
    with torch.device("meta"):
        config = create_model("internimage_xl").pretrained_cfg
    assert config["architecture"] == "internimage_xl"
    assert config["input_size"] == (3, 384, 384)
    assert config["num_classes"] == 1000
    assert (config["interpolation"], config["crop_pct"]) == ("bicubic", 1.0)


def test_features_only_returns_maps_and_holds_nothing_else() -> None:
    backbone = create_model("internimage_atto", features_only=True, out_indices=(0, 2), depths=(1, 1, 1, 1)).eval()
    assert isinstance(backbone, InternImageFeatures)
    maps = backbone(torch.zeros(1, 3, 64, 96))
    assert [tuple(x.shape) for x in maps] == [(1, 16, 16, 24), (1, 64, 4, 6)]
    assert backbone.feature_info.channels() == [16, 64]
    assert not [key for key in backbone.state_dict() if key.startswith(("stages.3", "stages.2.downsample", "head"))]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return save_checkpoint(create_model("internimage_t", **SMALL, num_classes=6), tmp_path / "t.pth", layout="official")


def test_a_checkpoint_is_loaded(file: Path) -> None:
    torch.manual_seed(0)
    saved = create_model("internimage_t", **SMALL, num_classes=6).eval()
    loaded = create_model("internimage_t", checkpoint=file, **SMALL, num_classes=6).eval()
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded(images), saved(images))
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    backbone = create_model("internimage_t", checkpoint=file, features_only=True, out_indices=(1, 2), **SMALL).eval()
    expected = saved.forward_intermediates(images, [1, 2], intermediates_only=True)
    torch.testing.assert_close(backbone(images), expected)


def test_pretrained_weights_keep_their_backbone_under_another_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    saved = create_model("internimage_t", **SMALL).eval()
    save_checkpoint(saved, tmp_path / "internimage_t_1k_224.pth", layout="official")
    monkeypatch.setenv("INTERNIMAGE_WEIGHTS", str(tmp_path))
    images = torch.rand(1, 3, 32, 32)
    same = create_model("internimage_t.in1k_224", pretrained=True, **SMALL).eval()
    torch.testing.assert_close(same(images), saved(images))
    assert same.pretrained_cfg["tag"] == "in1k_224"
    assert same.pretrained_cfg["url"].endswith("internimage_t_1k_224.pth")

    other = create_model("internimage_t", pretrained=True, num_classes=3, **SMALL).eval()
    assert other(images).shape == (1, 3)
    torch.testing.assert_close(other.forward_features(images), saved.forward_features(images))
    headless = create_model("internimage_t", pretrained=True, head=None, **SMALL).eval()
    torch.testing.assert_close(headless.forward_features(images), saved.forward_features(images))
