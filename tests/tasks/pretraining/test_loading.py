"""Samples of any mixture of members, texts as tokens, views and what relates them."""

import io
import json
import pickle

import cv2
import numpy as np
import pytest
import torch
from pretraining_data import samples, write_data

from internimage.tasks.augment import Augmentation
from internimage.tasks.folders import DatasetError
from internimage.tasks.pretraining.data import no_data, open_pretraining_data
from internimage.tasks.pretraining.geometry import cell_places, seen_from_source
from internimage.tasks.pretraining.loading import PretrainingSet, Wanted, collate
from internimage.tasks.pretraining.tokens import TextTokens, read_tokens, text_key, train_tokenizer
from internimage.tasks.training.shards import write_shards

pytestmark = pytest.mark.once

PLAIN = Augmentation(64, crop_scale=(0.3, 0.6), rand_augment="", color_jitter=0, erasing=0)
TEXTS = ["A red shirt", "a blue shirt", "two  shirts and\na hat", "ein rotes Hemd", "赤いシャツ"]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Two sources: whole samples, and pictures with texts alone."""
    folder = tmp_path_factory.mktemp("mixed")
    write_data(folder / "whole")
    (folder / "texts").mkdir()
    write_shards(samples(10, ("png", "txt"), seed=2), folder / "texts" / "%03d.tar", samples_per_shard=6)
    rows = [{"shards": "whole/train-{000..002}.tar", "weight": 3}, {"shards": "texts", "weight": 1}]
    (folder / "sources.json").write_text(json.dumps({"train": rows}))
    return folder


def test_sources_are_read_one_after_the_other_with_what_their_samples_have(mixed):
    data = open_pretraining_data(mixed, "train")
    assert len(data) == 34
    assert (data.sizes, data.weights) == ([[10, 10, 4], [6, 4]], (3, 1))
    first, last = data[1], data[33]
    assert (first.name, first.category) == ("train-000.tar/0001", "green")
    assert first.texts == ("a photo of something green",)
    assert (last.name, last.category, last.embedding) == ("001.tar/0009", None, None)
    assert first.embedding.startswith(b"\x93NUMPY")
    assert data.categories() == ("blue", "green", "red")
    assert len(data.some_texts(1000)) == 34
    assert open_pretraining_data(mixed, "val") is None
    assert len(open_pretraining_data(mixed / "whole", "val")) == 12


def test_categories_that_are_numbers_stand_for_themselves(tmp_path):
    write_shards(
        ((f"{label}", {"jpg": b"x", "cls": str(label).encode()}) for label in (4, 11)),
        tmp_path / "train-%d.tar",
        samples_per_shard=5,
    )
    assert open_pretraining_data(tmp_path, "train").categories() == tuple(map(str, range(12)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ('{"train": []}', "expected {"),
        ('{"train": [{"shard": "x"}]}', "has the entry"),
        ('{"train": [{"shards": "whole", "weight": 0}]}', "expected a number above 0"),
        ('{"train": [{"shards": "whole", "weight": 1}, {"shards": "whole"}]}', "all one or none"),
    ],
)
def test_wrong_lists_of_sources_are_refused(content, message, tmp_path):
    write_data(tmp_path / "whole", train=2, val=1)
    (tmp_path / "sources.json").write_text(content)
    with pytest.raises(DatasetError, match=message):
        open_pretraining_data(tmp_path, "train")


def test_missing_data_is_named(tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        open_pretraining_data(tmp_path / "nothing", "train")
    assert "holds no data called train, but nothing" in str(no_data(tmp_path, "train"))
    write_shards(samples(2, ("png",)), tmp_path / "train-%d.tar", samples_per_shard=5)
    with pytest.raises(DatasetError, match="no sample has a category"):
        open_pretraining_data(tmp_path, "train").categories()


def test_tokens_are_those_of_the_text_and_the_same_in_other_processes():
    description = train_tokenizer(TEXTS * 3, 300)
    assert train_tokenizer(TEXTS * 3, 300) == description
    tokens = TextTokens(description, 16)
    assert 258 < tokens.vocabulary <= 301
    assert np.array_equal(tokens("a RED  shirt"), tokens("A red shirt"))
    assert not np.array_equal(tokens("a blue shirt"), tokens("a red shirt"))
    found = tokens("赤い 🎩")  # characters that it hasn't learned are bytes
    assert found.shape == (16,)
    assert found.max() < tokens.vocabulary
    start = found[0]
    assert tokens("")[0] == start != 0
    assert np.array_equal(pickle.loads(pickle.dumps(tokens))("a hat"), tokens("a hat"))
    cut = TextTokens(description, 4)("a hat and a hat and a hat")
    assert np.array_equal(cut, TextTokens(description, 40)("a hat and a hat and a hat")[:4])


def test_a_text_of_no_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json: the text is of no tokenizer"):
        read_tokens(tmp_path / "tokenizer.json", 16)
    with pytest.raises(ValueError, match="at least 258"):
        train_tokenizer(TEXTS, 100)


def test_an_item_follows_from_index_and_seed(mixed):
    data = open_pretraining_data(mixed, "train")
    tokens = TextTokens(train_tokenizer(TEXTS, 300), 16)
    labels = {name: label for label, name in enumerate(data.categories())}
    wanted = Wanted(PLAIN, dense=True, other_view=True, cells=5, categories=labels, tokens=tokens)
    loaded = PretrainingSet(data, wanted)
    item, again, other = loaded[1, 7], loaded[1, 7], loaded[1, 8]
    assert torch.equal(item["image"], again["image"])
    assert np.array_equal(item["cells"], again["cells"])
    assert not torch.equal(item["image"], other["image"])
    assert item["label"] == 1
    assert item["text_key"] == text_key(b"a photo of something green") >= 0
    assert loaded[30, 7]["label"] == -1
    assert sorted(set(item["cells"])) == sorted(item["cells"])
    assert (len(item["cells"]), max(item["cells"]) < 16) == (5, True)
    batch = collate([loaded[i, i] for i in range(6)], images=2)
    assert batch["blocks"].shape == (3, 4)
    assert batch["image"].shape == batch["target_image"].shape == (6, 3, 64, 64)
    same = PretrainingSet(data, Wanted(PLAIN, dense=True))[1, 7]
    assert "target_image" not in same
    assert same["relative"].tolist() == [[0, 1], [0, 1]]
    assert same["cells"].tolist() == list(range(16))


def test_of_several_texts_one_is_taken_each_time(tmp_path):
    ((key, members),) = samples(1, ("png",))
    members["txt"] = b" one text\n\nanother text \n"
    write_shards([(key, members)], tmp_path / "train-%d.tar", samples_per_shard=1)
    data = open_pretraining_data(tmp_path, "train")
    assert data[0].texts == ("one text", "another text")
    loaded = PretrainingSet(data, Wanted(PLAIN, tokens=TextTokens(train_tokenizer(TEXTS, 300), 16)))
    keys = {loaded[0, seed]["text_key"] for seed in range(12)}
    assert keys == {text_key(b"one text"), text_key(b"another text")}


def test_masks_belong_to_a_mixture_wherever_it_stands_in_the_batch(mixed):
    loaded = PretrainingSet(open_pretraining_data(mixed, "train"), Wanted(PLAIN))
    items = [loaded[i, 100 + i] for i in range(8)]
    whole = collate(items, images=2)["blocks"]
    halves = [collate(items[part], images=2)["blocks"] for part in (slice(0, 4), slice(4, 8))]
    assert torch.equal(whole, torch.cat(halves))


def test_stored_embeddings_are_read_and_checked(mixed):
    data = open_pretraining_data(mixed, "train")
    loaded = PretrainingSet(data, Wanted(PLAIN, embedding_width=64))
    item = loaded[0, 0]
    assert torch.equal(item["embedding"], torch.from_numpy(np.load(io.BytesIO(data[0].embedding)).astype(np.float32)))
    assert item["text_key"] == loaded[3, 0]["text_key"] != loaded[1, 0]["text_key"]
    assert (loaded[30, 0]["text_key"], float(loaded[30, 0]["embedding"].abs().sum())) == (-1, 0)
    with pytest.raises(DatasetError, match=r"train-000.tar/0000: its emb is of shape \[64\], expected \[32\]"):
        PretrainingSet(data, Wanted(PLAIN, embedding_width=32))[0, 0]


def test_the_target_view_shows_what_its_places_in_the_input_view_show(tmp_path):
    """A picture whose red and green tell the place: what a view shows at a place is known from the other view."""
    rows, columns = np.mgrid[0:96, 0:128]
    image = np.stack([np.full_like(rows, 9), 2 * rows, 1.5 * columns], axis=-1).astype(np.uint8)  # BGR
    content = {"png": cv2.imencode(".png", image)[1].tobytes()}
    write_shards([("0", content)], tmp_path / "train-%d.tar", samples_per_shard=1)
    loaded = PretrainingSet(open_pretraining_data(tmp_path, "train"), Wanted(PLAIN, dense=True, other_view=True))
    flips = set()
    for seed in range(8):
        item = loaded[0, seed]
        grid = cell_places(64, 64, torch.device("cpu"), torch.float32)[None]
        places = seen_from_source(grid, torch.from_numpy(item["relative"])[None])[0]
        inside = ((places > 0.02) & (places < 0.98)).all(1)
        flips.add(bool(item["relative"][1, 1] < 0))
        pixels = (places[inside] * 64).long()
        expected = item["image"][:2, pixels[:, 0], pixels[:, 1]]
        found = item["target_image"][:2].flatten(1)[:, inside]
        assert (found - expected).abs().mean() < 0.05  # of 1 for a standard deviation of colours
    assert flips == {True, False}
