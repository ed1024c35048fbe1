"""A classifier carries the names of its classes, and files that don't say get sensible ones."""

import pytest
import torch

from internimage import create_model, imagenet
from internimage.tasks.classification.trained import Trained


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
