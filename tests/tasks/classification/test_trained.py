"""A classifier carries the names of its classes, and files that don't say get sensible ones."""

import pytest
import torch

from internimage import create_model, imagenet
from internimage.checkpoint import save_state_dict
from internimage.tasks.classification.trained import Trained, description, weights_file


@pytest.mark.parametrize(
    ("count", "classes", "first"),
    [
        (1000, None, imagenet.class_names(1000)[0]),
        (1000, imagenet.wordnet_ids(1000), imagenet.class_names(1000)[0]),
        (21841, None, imagenet.class_names(21841)[0]),
        (2, ("cat", "dog"), "cat"),
        (2, None, "class 0"),
        (1000, tuple(map(str, range(1000))), "0"),
    ],
)
def test_names_are_those_of_the_training_data_or_imagenets(count, classes, first):
    with torch.device("meta"):
        model = create_model("internimage_atto", num_classes=count)
    names = Trained(model, classes, 224).names
    assert names[0] == first
    assert len(names) == count


def test_a_runs_folder_stands_for_its_best_weights(tmp_path):
    assert weights_file(tmp_path / "weights.pth") == tmp_path / "weights.pth"
    assert weights_file(tmp_path) == tmp_path  # a Hugging Face folder, for one
    (tmp_path / "recipe.json").touch()
    with pytest.raises(ValueError, match="has not come to its first evaluation"):
        weights_file(tmp_path)
    model = create_model("internimage_atto", num_classes=2)
    save_state_dict(model.state_dict(), tmp_path / "best.safetensors", description(model, ["cat", "dog"], 64))
    assert weights_file(tmp_path) == tmp_path / "best.safetensors"
