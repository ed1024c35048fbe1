"""Samples become tensors, the same in any process, and pictures that can't be read are named and replaced."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, get_worker_info

from internimage.tasks import images
from internimage.tasks.augment import Augmentation, augment
from internimage.tasks.classification.data import Dataset, Sample, open_dataset
from internimage.tasks.classification.loading import EvalSet, Item, TrainSet, collate
from internimage.tasks.images import ImageError
from internimage.tasks.training import shards
from internimage.tasks.training.samples import worker_init
from internimage.tasks.training.shard_index import ShardError
from internimage.tasks.training.shards import write_shards

PLAIN = Augmentation(size=16, rand_augment="", color_jitter=0.0, erasing=0.0)
STRONG = Augmentation(size=16)


@pytest.fixture(autouse=True)
def close_shards() -> Iterator[None]:
    yield
    shards._open.cache_clear()


def photo(seed: int) -> images.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2).astype(np.uint8)


def names(corrupt: Sequence[str]) -> list[str]:
    """The names that reasons start with."""
    return [reason.partition(": ")[0] for reason in corrupt]


def make_folder(root: Path, count: int = 6, corrupt: Sequence[int] = ()) -> Dataset:
    """Pictures of two classes, some of them cut."""
    for i in range(count):
        path = root / "train" / ("ant" if i < count // 2 else "bee") / f"{i:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        images.write_image(path, photo(i))
        if i in corrupt:
            path.write_bytes(path.read_bytes()[:-50])
    return open_dataset(root, "train")


class Metadata:
    """A data set of one picture, with metadata for some samples."""

    classes: Sequence[str] = ("ant",)

    def __init__(self, *metadata: tuple[float, ...]) -> None:
        self.sizes: Sequence[int] = [len(metadata)]
        self._metadata = metadata
        written, data = cv2.imencode(".png", photo(0))
        assert written
        self._data = data.tobytes()

    def __len__(self) -> int:
        return len(self._metadata)

    def labels(self) -> np.ndarray:
        return np.zeros(len(self), np.int64)

    def name(self, index: int) -> str:
        return f"sample {index}"

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.name(index), self._data, 0, self._metadata[index])


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
        for name, value in first.items()
    )


def test_a_training_sample_is_its_picture_augmented_with_its_seed(tmp_path):
    dataset = make_folder(tmp_path)
    item = TrainSet(dataset, STRONG)[4, 77]
    picture = images.read_image(tmp_path / "train" / "bee" / "004.jpg")
    assert torch.equal(item["image"], augment(picture, STRONG, np.random.default_rng(77)))
    assert item["image"].shape == (3, 16, 16)
    assert item["label"] == 1
    assert item["corrupt"] == ()
    assert "metadata" not in item


def test_another_seed_gives_another_image_and_nothing_else_does(tmp_path):
    train = TrainSet(make_folder(tmp_path), STRONG)
    first = train[0, 1]
    np.random.default_rng().random()
    torch.rand(3)
    assert same(train[0, 1], first)
    assert not torch.equal(train[0, 2]["image"], first["image"])


def test_an_evaluated_sample_is_its_picture_prepared(tmp_path):
    item = EvalSet(make_folder(tmp_path), 16)[4]
    picture = images.read_image(tmp_path / "train" / "bee" / "004.jpg")
    assert torch.equal(item["image"], images.prepare(picture, 16))
    assert item["label"] == 1
    assert item["corrupt"] == ()


@pytest.mark.parametrize("corrupt", [[2], [2, 3], [2, 3, 4, 5]])
def test_a_picture_that_cannot_be_read_is_replaced_by_the_next_one(tmp_path, corrupt):
    dataset = make_folder(tmp_path, corrupt=corrupt)
    train = TrainSet(dataset, STRONG)
    following = (corrupt[-1] + 1) % 6  # after the last one comes the first
    item = train[2, 5]
    assert names(item["corrupt"]) == [dataset.name(i) for i in corrupt]
    assert all("truncated JPEG" in reason for reason in item["corrupt"])
    assert same({**item, "corrupt": ()}, dict(train[following, 5]))


def test_a_file_that_has_gone_is_replaced_and_named(tmp_path):
    dataset = make_folder(tmp_path)
    Path(dataset.name(0)).unlink()
    item = TrainSet(dataset, PLAIN)[0, 0]
    assert names(item["corrupt"]) == [dataset.name(0)]
    assert torch.equal(item["image"], TrainSet(dataset, PLAIN)[1, 0]["image"])


@pytest.mark.parametrize("count", [4, 103])
def test_after_100_pictures_that_cannot_be_read_training_stops_with_the_names_of_ten(tmp_path, count):
    dataset = make_folder(tmp_path, count, corrupt=range(count))
    with pytest.raises(
        ImageError, match=f"^{min(count, 100)} samples in a row can't be read: .*truncated JPEG"
    ) as caught:
        TrainSet(dataset, PLAIN)[3, 0]
    named = [i for i in range(count) if dataset.name(i) in str(caught.value)]
    assert named == (list(range(4)) if count == 4 else list(range(3, 13)))


def test_a_picture_that_cannot_be_read_is_left_out_of_evaluation_and_named(tmp_path):
    dataset = make_folder(tmp_path, corrupt=[2])
    item = EvalSet(dataset, 16)[2]
    assert names(item["corrupt"]) == [dataset.name(2)]
    assert item["label"] == -1
    assert torch.equal(item["image"], torch.zeros(3, 16, 16))


def test_beyond_the_end_evaluation_gets_nothing_that_counts(tmp_path):
    evaluation = EvalSet(make_folder(tmp_path), 16)
    assert len(evaluation) == 6
    item = evaluation[6]
    assert (item["label"], item["corrupt"], item["image"].abs().sum()) == (-1, (), 0)


def test_a_shard_that_has_changed_is_no_corrupt_picture(tmp_path):
    written, data = cv2.imencode(".png", photo(0))
    assert written
    (path,) = write_shards([("a", {"png": data.tobytes(), "cls": b"0"})], tmp_path / "val-%d.tar", samples_per_shard=1)
    dataset = open_dataset(tmp_path, "val")
    with path.open("ab") as file:
        file.write(b"x")
    for load in (lambda: TrainSet(dataset, PLAIN)[0, 0], lambda: EvalSet(dataset, 16)[0]):
        with pytest.raises(ShardError, match="has changed"):
            load()


def test_metadata_is_encoded_as_the_model_takes_it():
    dataset = Metadata((3.0, 30.0, -60.0), (math.nan,) * 3)
    for item in (TrainSet(dataset, PLAIN)[0, 0], EvalSet(dataset, 16)[0]):
        place = [math.sqrt(3) / 2 * 0.5, -math.sqrt(3) / 2 * math.sqrt(3) / 2, 0.5]
        torch.testing.assert_close(item["metadata"], torch.tensor([1.0, 0, 0, 0, *place]))
    assert torch.equal(EvalSet(dataset, 16)[1]["metadata"], torch.zeros(7))


def test_a_batch_holds_the_samples_in_their_order(tmp_path):
    items = [TrainSet(make_folder(tmp_path, corrupt=[1, 4]), PLAIN)[i, i] for i in (5, 1, 4)]
    batch = collate(items)
    assert torch.equal(batch["image"], torch.stack([item["image"] for item in items]))
    assert batch["label"].tolist() == [1, 0, 1]
    assert batch["label"].dtype == torch.int64
    assert [Path(name).name for name in names(batch["corrupt"])] == ["001.jpg", "004.jpg"]
    assert "metadata" not in batch


def test_a_batch_has_zeros_for_metadata_that_a_sample_lacks():
    evaluation = EvalSet(Metadata((3.0, 30.0, 60.0)), 16)
    batch = collate([evaluation[0], evaluation[1]])
    assert torch.equal(batch["metadata"], torch.stack([evaluation[0]["metadata"], torch.zeros(7)]))


class Threads(torch.utils.data.Dataset[Item]):
    """How many threads a worker has, in place of labels."""

    def __getitem__(self, index: int) -> Item:
        info = get_worker_info()
        assert info is not None
        threads = (cv2.getNumThreads(), torch.get_num_threads())[index]
        return {"image": torch.zeros(1), "label": threads, "corrupt": ()}


def test_workers_have_one_thread():
    loader = DataLoader(Threads(), 2, sampler=[0, 1], num_workers=1, collate_fn=collate, worker_init_fn=worker_init)
    assert next(iter(loader))["label"].tolist() == [1, 1]


@pytest.mark.parametrize("layout", ["folder", "shards"])
def test_any_number_of_worker_processes_gives_the_same_batches(tmp_path, layout):
    dataset = make_folder(tmp_path / "folder", 12, corrupt=[5])
    if layout == "shards":
        samples = (
            (f"{i:02}", {"jpg": sample.data, "cls": dataset.classes[sample.label].encode()})
            for i, sample in enumerate(map(dataset.__getitem__, range(12)))
        )
        write_shards(samples, tmp_path / "tars" / "train-%d.tar", samples_per_shard=5)
        dataset = open_dataset(tmp_path / "tars", "train")
    keys = [(int(index), 1000 + place) for place, index in enumerate(np.random.default_rng(0).permutation(12))]
    batches = [
        list(
            DataLoader(
                TrainSet(dataset, STRONG),
                batch_size=4,
                sampler=keys,
                num_workers=workers,
                collate_fn=collate,
                worker_init_fn=worker_init if workers else None,
            )
        )
        for workers in (0, 1, 2)
    ]
    assert all(same(a, b) and same(a, c) for a, b, c in zip(*batches, strict=True))
    assert [name for batch in batches[0] for name in names(batch["corrupt"])] == [dataset.name(5)]
    replaced = [index if index != 5 else 6 for index, _ in keys]
    assert torch.cat([batch["label"] for batch in batches[0]]).tolist() == dataset.labels()[replaced].tolist()
