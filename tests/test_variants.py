"""The table of variants is the paper's."""

import pytest
import torch

from internimage.backbone import InternImage
from internimage.models import create_model, variant_arguments
from internimage.variants import VARIANTS

# letter: backbone alone, with 1000 classes, with 21841 classes, as counted in the official models
PARAMETERS = {
    "t": (28_754_672, 29_918_424, None),
    "s": (48_502_560, 50_079_880, None),
    "b": (94_909_920, 97_461_832, None),
    "l": (218_952_370, 223_334_810, 263_370_371),
    "xl": (328_971_228, 334_819_780, 382_858_285),
    "h": (1_073_122_480, 1_089_636_760, 1_105_663_489),
    "g": (3_052_781_184, 3_076_373_352, 3_092_400_081),
}


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("letter", PARAMETERS)
def test_models_have_the_published_size(letter: str) -> None:
    backbone, classes_1k, classes_22k = PARAMETERS[letter]
    name = f"internimage_{letter}"
    with torch.device("meta"):
        assert count(create_model(name, head=None)) == backbone
        assert count(create_model(name)) == classes_1k
        if classes_22k:
            assert count(create_model(name, num_classes=21841)) == classes_22k


def test_t_has_layer_scales_in_dense_tasks_only() -> None:
    with torch.device("meta"):
        dense = InternImage(**variant_arguments(VARIANTS["internimage_t"], dense=True))
    assert count(dense) == 28_769_520
    assert VARIANTS["internimage_t"].layer_scale is None


def test_the_inaturalist_model_has_its_published_size() -> None:
    with torch.device("meta"):
        assert count(create_model("internimage_h", head="metadata", num_classes=8142)) == 1_096_197_516


def test_small_models_shrink_with_their_names() -> None:
    with torch.device("meta"):
        sizes = [count(create_model(f"internimage_{name}")) for name in ("atto", "femto", "pico", "nano", "t")]
    assert sizes == sorted(sizes)
    assert 1e6 < sizes[0] < 2e6
