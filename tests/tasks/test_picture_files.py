"""Picture files are found in order, none twice; what can't be read is said and left out."""

from pathlib import Path

import numpy as np
import pytest

from internimage.tasks.images import write_image
from internimage.tasks.picture_files import annotation_paths, find_images, prediction_paths, read_images

pytestmark = pytest.mark.once


def test_folders_and_wildcards_are_searched_and_nothing_is_named_twice(tmp_path, monkeypatch):
    for name in ("a.png", "b.JPG", "deep/er/c.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    everything = ["a.png", "b.JPG", str(Path("deep", "er", "c.webp"))]
    assert find_images(["."]) == everything
    assert find_images(["*.png", "a.png", "deep"]) == ["a.png", everything[2]]
    assert find_images(["**/*.webp"]) == [everything[2]]
    assert find_images(["missing.png"]) == ["missing.png"]
    (tmp_path / "odd[1].png").touch()
    assert find_images(["odd[1].png"]) == ["odd[1].png"]  # a file's own name is no wildcard
    with pytest.raises(ValueError, match=r"\*\.bmp: no file fits"):
        find_images(["*.bmp"])
    (tmp_path / "hollow").mkdir()
    with pytest.raises(ValueError, match="hollow: the folder holds no picture"):
        find_images(["hollow"])


def test_annotated_pictures_of_one_name_do_not_overwrite_each_other():
    paths = ["x/a.png", "y/a.jpg", "z/a-2.png", "b.png"]
    targets = annotation_paths(paths, Path("out"))
    assert list(targets) == paths
    assert len(set(targets.values())) == 4
    assert targets["x/a.png"] == Path("out/a.png")


def test_results_never_lie_among_the_pictures(tmp_path):
    with pytest.raises(ValueError, match=r"b\.png lies in the folder for results"):
        prediction_paths(["x/a.png", str(tmp_path / "b.png")], tmp_path / "c" / "..")
    assert prediction_paths([str(tmp_path / "b.png")], tmp_path / "new") == {
        str(tmp_path / "b.png"): tmp_path / "new" / "b.png"
    }
    assert (tmp_path / "new").is_dir()


def test_what_can_not_be_read_is_said_and_left_out(tmp_path, capsys):
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    paths = [str(tmp_path / name) for name in ("a.png", "notes.png", "missing.png", "b.png")]
    write_image(paths[0], image)
    Path(paths[1]).write_text("no picture")
    write_image(paths[3], 255 - image)
    found = dict(read_images(paths))
    assert list(found) == [paths[0], paths[3]]
    np.testing.assert_array_equal(found[paths[3]], 255 - image)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"internimage: {paths[1]}: not a picture")
    assert second == f"internimage: {paths[2]}: no such file"
