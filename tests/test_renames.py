"""Our names and the official ones correspond one to one, for every official file."""

import pytest
import torch
from golden_files import manifest, manifests
from torch import nn

from internimage.backbone import InternImage
from internimage.composite import CompositeInternImage
from internimage.models import variant_arguments
from internimage.renames import INTERNIMAGE
from internimage.variants import VARIANTS


def build(name: str, classes: int) -> nn.Module:
    """The model of an official file, without memory for its weights."""
    kind, letter, *rest = name.split("_")
    with torch.device("meta"):
        if name == "backbone_cb_h":
            arguments = variant_arguments(VARIANTS["internimage_h"], dense=True)
            del arguments["head"]
            return CompositeInternImage(**arguments)
        arguments = variant_arguments(VARIANTS[f"internimage_{letter}"], dense=kind == "backbone")
        if "metaformer" in rest:
            arguments["head"] = "metadata"
        return InternImage(**arguments, num_classes=classes)


@pytest.mark.parametrize("name", manifests("cls_*", "backbone_*"))
def test_every_official_file_matches_its_model(name: str) -> None:
    official = manifest(name)
    model = build(name, classes=official.get("head.bias", (0,))[0])
    ours = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    names = INTERNIMAGE.to_official(ours)
    assert {names[key]: shape for key, shape in ours.items()} == official
    back = INTERNIMAGE.from_official(official)
    assert {back[key]: shape for key, shape in official.items()} == ours
    assert {ours_key: key for key, ours_key in back.items()} == names


def test_manifests_of_all_official_models_are_there() -> None:
    assert len(manifests("cls_*")) == 12
    assert len(manifests("backbone_*")) == 8


def test_foreign_names_are_told() -> None:
    assert INTERNIMAGE.from_official(["patch_embed.conv1.weight", "neck.conv.weight", "levels.0.blocks.x.gamma1"]) == {
        "patch_embed.conv1.weight": "stem.conv1.weight"
    }
    with pytest.raises(ValueError, match="1 keys, such as patch_embed"):
        INTERNIMAGE.to_official(["patch_embed.conv1.weight", "stem.conv1.weight"])
