"""The folder of a run."""

import pytest

from internimage.tasks.training.run_directory import weights_file

pytestmark = pytest.mark.once


def test_a_runs_folder_stands_for_its_best_weights(tmp_path):
    assert weights_file(tmp_path / "weights.pth") == tmp_path / "weights.pth"
    assert weights_file(tmp_path) == tmp_path  # a Hugging Face folder, for one
    (tmp_path / "recipe.json").touch()
    with pytest.raises(ValueError, match="has not come to its first evaluation"):
        weights_file(tmp_path)
    (tmp_path / "best.safetensors").touch()
    assert weights_file(tmp_path) == tmp_path / "best.safetensors"
