"""`internimage shard` writes what there is, in parallel, checked, to go on with; and says what it wrote."""

import io
import json

import cv2
import numpy as np
import pytest

from internimage.tasks import cli
from internimage.tasks.pretraining.data import open_pretraining_data
from internimage.tasks.training.shards import TarShards

pytestmark = pytest.mark.once


def encoded(number, side=20, suffix=".png"):
    return cv2.imencode(suffix, np.full((side, side + number % 3, 3), number, np.uint8))[1].tobytes()


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for number in range(21):
        place = folder / ("big_hat" if number % 3 else "shirt")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(encoded(number))
    return folder


def shard(*words):
    return cli.main(["shard", *map(str, words), "--workers", "2"])


def test_folders_become_shards_with_categories_and_texts(photos, tmp_path, capsys):
    (photos / "shirt" / "broken.png").write_bytes(b"no picture")
    pattern = tmp_path / "shards" / "train-%03d.tar"
    assert shard("folder", photos, pattern, "--text", "a photo of a {}", "--samples", "8") == 0
    out = capsys.readouterr().out
    assert "samples       21," in out
    assert "categories    2: big_hat 14, shirt 7" in out
    assert "texts         21, of 18 to 20 (median 20) characters" in out
    assert "left out      1 that can't be read:\n" in out
    assert "broken.png" in out
    data = open_pretraining_data(tmp_path / "shards", "train")
    assert len(data) == 21
    assert data.categories() == ("big_hat", "shirt")
    by_picture = {sample.picture: sample for sample in (data[index] for index in range(21))}
    found = [by_picture[encoded(number)] for number in range(21)]
    assert [sample.category for sample in found] == ["big_hat" if number % 3 else "shirt" for number in range(21)]
    assert found[1].texts == ("a photo of a big hat",)
    order = [list(by_picture).index(encoded(number)) for number in range(21)]
    assert order != sorted(order)
    assert shard("check", tmp_path / "shards") == 0
    assert capsys.readouterr().out.splitlines()[:5] == [line for line in out.splitlines() if "left" not in line][:5]


def test_the_same_command_goes_on_and_another_is_refused(photos, tmp_path, capsys):
    pattern = tmp_path / "shards" / "train-%03d.tar"
    assert shard("folder", photos, pattern, "--samples", "8") == 0
    first, *others = sorted((tmp_path / "shards").glob("*.tar"))
    contents, kept = first.read_bytes(), [(path, path.stat().st_mtime_ns) for path in others]
    first.unlink()
    assert shard("folder", photos, pattern, "--samples", "8") == 0
    assert first.read_bytes() == contents
    assert [(path, path.stat().st_mtime_ns) for path in others] == kept
    before, after = capsys.readouterr().out.split("samples       21,")[1:]
    assert before.splitlines() == after.splitlines()
    assert shard("folder", photos, pattern, "--samples", "4") == 1
    assert "delete such shards first" in capsys.readouterr().err


def test_csv_files_become_shards_with_what_their_columns_have(photos, tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.arange(4.0))
    (photos / "vector.npy").write_bytes(buffer.getvalue())
    rows = ["path,title,category,embedding", 'shirt/0.png,"A shirt, white",,vector.npy', "big_hat/1.png,,7,"]
    (photos / "pairs.csv").write_text("\n".join(rows))
    words = ("csv", photos / "pairs.csv", tmp_path / "out" / "train-%d.tar")
    assert shard(*words, "--columns", "picture=path", "text=title") == 0
    samples = sorted((TarShards(tmp_path / "out")[i] for i in range(2)), key=lambda sample: "cls" in sample)
    assert samples[0] == {"png": encoded(0), "txt": b"A shirt, white", "emb": buffer.getvalue()}
    assert samples[1] == {"png": encoded(1), "cls": b"7"}


def test_captions_of_a_picture_stay_together_and_large_pictures_are_reduced(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number, suffix in ((1, ".jpg"), (2, ".bmp")):
        (tmp_path / "pictures" / f"{number}{suffix}").write_bytes(encoded(number, 64, suffix))
    content = {
        "images": [{"id": 5, "file_name": "1.jpg"}, {"id": 6, "file_name": "2.bmp"}],
        "annotations": [{"image_id": 5, "caption": "one\n text"}, {"image_id": 5, "caption": "two"}],
    }
    (tmp_path / "captions.json").write_text(json.dumps(content))
    words = ("coco", tmp_path / "captions.json", tmp_path / "out" / "train-%d.tar", "--images", tmp_path / "pictures")
    assert shard(*words, "--short-side", 32) == 0
    samples = sorted((TarShards(tmp_path / "out")[i] for i in range(2)), key=lambda sample: "txt" in sample)
    assert [sorted(sample) for sample in samples] == [["jpg"], ["jpg", "txt"]]
    assert samples[1]["txt"] == b"one text\ntwo"
    assert cv2.imdecode(np.frombuffer(samples[0]["jpg"], np.uint8), 1).shape[0] == 32


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("folder", "photos"), "name the shards to write"),
        (("folder", "photos", "train.tar"), "must hold one number"),
        (("folder", "photos/shirt", "out/%d.tar", "--text", "a {}"), "lies in no folder of a category"),
        (("csv", "pairs.csv", "out/%d.tar", "--columns", "texts=title"), "expected WHAT=NAME"),
        (("csv", "pairs.csv", "out/%d.tar"), "has no column 'image', but path"),
        (("coco", "pairs.csv", "out/%d.tar"), "not in COCO's format of captions"),
        (("folder", "photos", "out/%d.tar", "--samples", "0"), "--samples must be at least 1"),
    ],
)
def test_what_can_not_be_written_is_refused(words, message, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.csv").write_text("path\nx.png\n")
    assert shard(*words) == 1
    assert message in capsys.readouterr().err
