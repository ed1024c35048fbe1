"""Samples depend on their index and seed alone; what can't be read is replaced and named."""

import json

import pytest
import torch
from detection_files import annotation, coco, image, put
from made_shapes import CATEGORY_IDS, make_shapes

from internimage.tasks.detection.augment import Augmentation, Crop, Scales
from internimage.tasks.detection.batch import pad_images, read_target
from internimage.tasks.detection.datasets import open_dataset, trainable
from internimage.tasks.detection.loading import EvalSet, TrainSet, collate, orientations
from internimage.tasks.detection.views import Views
from internimage.tasks.images import read_image
from internimage.tasks.training.distributed import Processes
from internimage.tasks.training.feed import Feed
from internimage.tasks.training.order import Order

SIZES = [(40, 60), (60, 40), (50, 50), (44, 70), (48, 64), (64, 48)]
CROP = Crop(Scales((40,), 70), (24, 38), empty=True, probability=0.5)
SMALL = Augmentation(Scales((32, 40), 64), CROP, flip=0.5)


@pytest.fixture
def root(tmp_path):
    images = [image(n, f"{n}.png", size) for n, size in enumerate(SIZES)]
    outline = [[5, 6, 25, 6, 25, 16, 5, 16]]
    annotations = [annotation(n, segmentation=outline) for n in range(6) if n != 4]
    annotations += [annotation(n, (8, 8, 20, 20), iscrowd=1, segmentation=outline) for n in range(3)]
    files = {f"images/{n}.png": size for n, size in enumerate(SIZES)}
    return put(tmp_path, {"annotations/instances_train.json": coco(images, annotations), **files})


def equal(first, second):
    return torch.equal(first["image"], second["image"]) and all(
        torch.equal(first["target"][key], second["target"][key]) for key in first["target"]
    )


def test_a_sample_depends_on_its_index_and_seed_alone(root):
    data = open_dataset(root, "train")
    samples = TrainSet(data, trainable(data), SMALL, masks=True)
    again = TrainSet(open_dataset(root, "train"), trainable(data), SMALL, masks=True)
    assert len(samples) == 5
    assert equal(samples[2, 7], again[2, 7])
    assert not equal(samples[2, 7], samples[2, 8])
    assert not equal(samples[2, 7], samples[3, 7])


def test_batches_from_worker_processes_are_what_detectors_take(root):
    data = open_dataset(root, "train")
    indices = trainable(data)
    groups = orientations(data, indices)
    assert groups == bytes([1, 0, 0, 1, 0])  # the fifth picture has no object
    order = Order([len(indices)], 4, parts=2, groups=groups)
    samples = TrainSet(data, indices, SMALL, masks=True)
    for workers in (0, 1):
        feed = Feed(samples, order, Processes(torch.device("cpu")), range(3), collate=collate, workers=workers)
        for step in range(3):
            for number, part in enumerate(feed.next_step()):
                keys = order.part(step, number)
                images = pad_images(part["image"])
                assert len(part["image"]) == len(part["target"]) == len(keys) == 2
                assert part["corrupt"] == ()
                for index, (key, target) in enumerate(zip(keys, part["target"], strict=True)):
                    expected = samples[key]
                    assert equal({"image": part["image"][index], "target": target}, expected)
                    truth = read_target(target, index, images, 1, masks=True)
                    assert truth.masks.shape[1:] == images.image.shape[2:]


def test_masks_are_left_out_where_they_are_not_learned(root):
    data = open_dataset(root, "train")
    item = TrainSet(data, trainable(data), SMALL, masks=False)[0, 0]
    assert set(item["target"]) == {"boxes", "labels"}


def test_pictures_and_masks_that_can_not_be_read_are_replaced_and_named(root):
    (root / "images/1.png").write_bytes(b"junk")
    data = open_dataset(root, "train")
    samples = TrainSet(data, trainable(data), SMALL, masks=True)
    item = samples[1, 3]
    assert equal(item, samples[2, 3])
    assert "images/1.png: not a picture" in item["corrupt"][0]
    batch = collate([samples[0, 0], item])
    assert batch["corrupt"] == item["corrupt"]
    outlines = ([5, 6, 1e9, 6, 25, 16], [5, 6, 25, 6, 25, 16])
    objects = [annotation(picture, segmentation=[outline]) for picture, outline in enumerate(outlines)]
    files = coco([image(0, "2.png", (50, 50)), image(1, "0.png")], objects)
    data = open_dataset(put(root, {"annotations/instances_train.json": files}), "train")
    item = TrainSet(data, trainable(data), SMALL, masks=True)[0, 0]
    assert "images/2.png: " in item["corrupt"][0]
    assert "an outline leads far out of the picture" in item["corrupt"][0]


def test_pictures_are_seen_in_views_and_are_black_where_they_can_not_be_read(root):
    (root / "images/1.png").write_bytes(b"junk")
    views = Views(None)
    samples = EvalSet(open_dataset(root, "train"), views)
    assert len(samples) == 6
    picture = read_image(root / "images/4.png")
    assert samples[4]["size"] == picture.shape[:2]
    assert torch.equal(samples[4]["views"][0], views(picture)[0])
    assert samples[4]["corrupt"] == ()
    black = samples[1]["views"][0]
    assert torch.equal(black, black[:, :1, :1].expand_as(black))
    assert "images/1.png: not a picture" in samples[1]["corrupt"][0]


def test_a_rare_class_is_drawn_as_often_as_a_frequent_one(tmp_path):
    root = make_shapes(tmp_path / "shapes", {"train": 12})
    path = root / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    for row in content["annotations"]:
        row["category_id"] = CATEGORY_IDS[row["image_id"] == 5]
    path.write_text(json.dumps(content))
    data = open_dataset(root, "train")
    samples = TrainSet(data, trainable(data), SMALL, masks=False, by_class=True)
    rare = sum(bool((samples[0, seed]["target"]["labels"] == 1).any()) for seed in range(200))
    assert abs(rare - 100) < 4 * 50**0.5  # four deviations of the coin that it should be
