"""The augmentation follows its definition; boxes and masks go where their pixels go."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_masks

from internimage.models import IMAGENET_MEAN, IMAGENET_STD
from internimage.tasks.detection.augment import Augmentation, Crop, Scales, augment
from internimage.tasks.detection.objects import Objects

SMALL = Augmentation(Scales(range(48, 81, 8), 120), None, flip=0.5)
SMALL_CROP = Augmentation(
    SMALL.scales, Crop(Scales((40, 50, 60), 130), (38, 60), empty=True, probability=1.0), flip=0.5
)


def resizing(side, flip=0.0):
    """The short side gets this length, and no crop is taken."""
    return Augmentation(Scales((side,), 1000), None, flip)


def cropping(scales, before, sides, empty=True):
    """Each picture is cropped, none mirrored."""
    return Augmentation(scales, Crop(before, sides, empty, probability=1.0), flip=0.0)


def rectangles(boxes, size, ignored=None, labels=None):
    """Objects that fill their boxes of whole pixels."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    masks = np.zeros((*size, len(boxes)), np.uint8, order="F")
    for number, (x1, y1, x2, y2) in enumerate(boxes.astype(int)):
        masks[y1:y2, x1:x2, number] = 1
    ignored = np.zeros(len(boxes), bool) if ignored is None else np.array(ignored)
    labels = np.arange(len(boxes)) if labels is None else np.array(labels)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return Objects(boxes, labels, ignored, areas, tuple(coco_masks.encode(masks)))


def scene(seed, size, count=5):
    """A black picture with white rectangles, one of which is ignored."""
    rng = np.random.default_rng(seed)
    starts = np.array([rng.integers(0, side - 6, count) for side in size[::-1]]).T
    ends = np.minimum(starts + rng.integers(5, 40, (count, 2)), size[::-1])
    objects = rectangles(np.hstack([starts, ends]), size, np.arange(count) == 2)
    image = np.zeros((*size, 3), np.uint8)
    for x1, y1, x2, y2 in objects.boxes.astype(int):
        image[y1:y2, x1:x2] = 255
    return image, objects


def denormalised(pixels):
    scaled = pixels * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None]
    return (255 * scaled).permute(1, 2, 0).numpy()


SIDES = st.integers(30, 150)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), SIDES, SIDES, st.sampled_from([SMALL, SMALL_CROP]))
def test_boxes_stay_inside_and_masks_agree_with_them_and_with_the_picture(seed, height, width, augmentation):
    image, objects = scene(seed, (height, width))
    pixels, target = augment(image, objects, augmentation, np.random.default_rng(seed), masks=True)
    assert set(target) == {"boxes", "labels", "masks"}
    assert pixels.dtype == target["boxes"].dtype == torch.float32
    assert target["labels"].dtype == torch.int64
    assert target["masks"].dtype == torch.uint8
    assert target["masks"].shape == (len(target["boxes"]), *pixels.shape[1:])
    assert 2 not in target["labels"]  # the ignored one
    ends = torch.tensor([pixels.shape[2], pixels.shape[1]])
    assert (target["boxes"] >= 0).all()
    assert (target["boxes"][:, 2:] > target["boxes"][:, :2]).all()
    assert (target["boxes"][:, 2:] <= ends).all()
    scale = max(pixels.shape[1:]) / min(height, width) + 1  # the nearest pixel may be as far away, twice
    for mask, box in zip(target["masks"].numpy(), target["boxes"].numpy(), strict=True):
        if mask.any():
            x, y, w, h = cv2.boundingRect(mask)
            assert np.abs(box - (x, y, x + w, y + h)).max() <= 2 * scale
        else:
            assert (box[2:] - box[:2]).min() <= 2 * scale
    border = np.ones([2 * int(np.ceil(2 * scale)) + 1] * 2)  # where white is mixed with black
    for mask in target["masks"].numpy():
        inside = cv2.erode(mask, border, borderValue=0) > 0
        assert denormalised(pixels)[inside].min(initial=255) > 254


def test_what_is_neither_cropped_nor_flipped_is_scaled():
    image, objects = scene(0, (60, 90))
    pixels, target = augment(image, objects, resizing(120), np.random.default_rng(0), masks=True)
    assert pixels.shape == (3, 120, 180)
    keep = ~objects.ignored
    np.testing.assert_array_equal(target["boxes"], 2 * objects.boxes[keep])
    np.testing.assert_array_equal(target["labels"], objects.labels[keep])
    masks = np.stack([coco_masks.decode(mask) for mask, kept in zip(objects.masks, keep, strict=True) if kept])
    np.testing.assert_array_equal(target["masks"], masks.repeat(2, axis=1).repeat(2, axis=2))


@pytest.mark.parametrize(("size", "expected"), [((480, 640), (800, 1067)), ((333, 500), (800, 1201)),
                                                ((300, 900), (444, 1333)), ((640, 480), (1067, 800))])  # fmt: skip
def test_the_single_scale_is_the_official_one(size, expected):
    """int(side * factor + 0.5), with the factor that lets no side grow over 1333 and 800."""
    image, official = np.zeros((*size, 3), np.uint8), Augmentation(Scales((800,), 1333), None, flip=0.5)
    pixels, _ = augment(image, rectangles([], size), official, np.random.default_rng(0), masks=False)
    assert pixels.shape[1:] == expected


def test_masks_are_resized_as_opencv_resizes_to_the_nearest_pixel():
    image, objects = scene(3, (61, 83))
    pixels, target = augment(image, objects, resizing(100), np.random.default_rng(0), masks=True)
    kept = [mask for mask, ignored in zip(objects.masks, objects.ignored, strict=True) if not ignored]
    for mask, expected in zip(target["masks"].numpy(), kept, strict=True):
        size = (pixels.shape[2], pixels.shape[1])
        resized = cv2.resize(coco_masks.decode(expected), size, interpolation=cv2.INTER_NEAREST)
        assert np.array_equal(mask, resized)


def test_a_picture_that_is_flipped_twice_is_the_same():
    size = (64, 96)
    image, objects = scene(4, size)
    image += np.random.default_rng(0).integers(0, 50, image.shape, dtype=np.uint8)
    flipping = resizing(64, flip=1.0)
    pixels, target = augment(image, objects, flipping, np.random.default_rng(0), masks=True)
    masks = coco_masks.encode(np.asfortranarray(target["masks"].numpy().transpose(1, 2, 0)))
    labels = target["labels"].numpy()
    once = Objects(target["boxes"].numpy(), labels, np.zeros(len(labels), bool), objects.areas, tuple(masks))
    flipped = np.rint(denormalised(pixels)).astype(np.uint8)
    assert np.array_equal(flipped, image[:, ::-1])
    again, restored = augment(flipped, once, flipping, np.random.default_rng(0), masks=True)
    assert np.array_equal(np.rint(denormalised(again)), image)
    np.testing.assert_array_equal(restored["boxes"], objects.boxes[~objects.ignored])
    assert np.array_equal(restored["masks"][0], coco_masks.decode(objects.masks[0]))


def test_half_of_the_pictures_are_mirrored():
    objects, mirror = rectangles([(0, 0, 10, 10)], (64, 64)), resizing(64, flip=0.5)
    image = np.zeros((64, 64, 3), np.uint8)
    drawn = [augment(image, objects, mirror, np.random.default_rng(seed), masks=False)[1] for seed in range(200)]
    lefts = [float(target["boxes"][0, 0]) for target in drawn]
    assert set(lefts) == {0.0, 54.0}
    assert 70 < lefts.count(54.0) < 130


def coordinates(size):
    """A picture whose pixels tell their row and column, and its pixels as objects."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.stack([rows, columns, np.zeros(size)], axis=-1).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(20, 120), st.integers(20, 120))
def test_a_crop_is_the_part_that_its_pixels_tell(seed, height, width):
    """Without resizing, the picture says which part was taken; boxes are those of the part, as computed from it."""
    size = (height, width)
    _, objects = scene(seed, size, 8)
    keep_size = cropping(Scales((200,), 400), Scales((min(size),), 1000), (25, 50))
    pixels, target = augment(coordinates(size), objects, keep_size, np.random.default_rng(seed), masks=True)
    # The last step magnifies; undo it by the corners of the picture.
    values = denormalised(pixels)
    top, left = np.rint(values[0, 0, :2]).astype(int)
    bottom, right = np.rint(values[-1, -1, :2]).astype(int) + 1
    for side, length in ((height, bottom - top), (width, right - left)):
        assert min(25, side) <= length <= min(50, side)
    factors = np.array([pixels.shape[2] / (right - left), pixels.shape[1] / (bottom - top)] * 2)
    inner = np.clip(objects.boxes, (left, top) * 2, (right, bottom) * 2) - np.array((left, top) * 2)
    visible = (inner[:, 2:] > inner[:, :2]).all(axis=1)
    np.testing.assert_allclose(target["boxes"], (inner * factors)[visible & ~objects.ignored], rtol=1e-4, atol=1e-3)
    assert target["labels"].tolist() == np.flatnonzero(visible & ~objects.ignored).tolist()


def test_sides_of_parts_are_drawn_from_the_least_to_the_most_and_end_with_the_picture():
    size = (60, 40)
    image, nothing = coordinates(size), rectangles([], size)
    keep_size = cropping(Scales((80,), 200), Scales((40,), 60), (30, 50))
    heights, widths = set(), set()
    for seed in range(400):
        values = denormalised(augment(image, nothing, keep_size, np.random.default_rng(seed), masks=False)[0])
        height, width = np.rint(values[-1, -1, :2] - values[0, 0, :2]).astype(int) + 1
        heights.add(int(height))
        widths.add(int(width))
    assert heights == set(range(30, 51))
    assert widths == set(range(30, 41))


def drawn_with_one_object(empty, count, ignored=False):
    """Pixels and targets of crops from a black picture with one white object."""
    size = (200, 200)
    objects = rectangles([(2, 2, 8, 8)], size, [ignored])
    augmentation = cropping(Scales((100,), 100), Scales((200,), 200), (60, 80), empty)
    image = np.zeros((*size, 3), np.uint8)
    image[2:8, 2:8] = 255
    return [augment(image, objects, augmentation, np.random.default_rng(seed), masks=False) for seed in range(count)]


def test_parts_without_objects_are_taken_or_drawn_again():
    counts = [len(target["boxes"]) for _, target in drawn_with_one_object(empty=True, count=100)]
    assert counts.count(0) > 80
    drawn = drawn_with_one_object(empty=False, count=100)
    assert all(len(target["boxes"]) == 1 for _, target in drawn)
    # Where no part was found, all of the picture is taken: the object is as small in it as it was.
    widths = [float(target["boxes"][0, 2] - target["boxes"][0, 0]) for _, target in drawn]
    assert 3.0 in widths
    assert max(widths) > 6


def test_ignored_objects_are_no_reason_to_draw_again():
    drawn = drawn_with_one_object(empty=False, count=50, ignored=True)
    assert sum(denormalised(pixels).max() < 1 for pixels, _ in drawn) > 35


def test_small_objects_and_ignored_ones_are_not_learned():
    objects = rectangles([(5, 5, 9, 9), (1, 1, 9, 9)], (40, 40), [False, True])
    boxes = np.concatenate([objects.boxes, [[5, 5, 5.9, 9]]]).astype(np.float32)
    objects = Objects(boxes, np.arange(3), np.array([False, True, False]), objects.areas, None)
    image = np.zeros((40, 40, 3), np.uint8)
    _, target = augment(image, objects, resizing(80), np.random.default_rng(0), masks=False)
    assert target["labels"].tolist() == [0]
    assert set(target) == {"boxes", "labels"}


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (40, 30)])
def test_pictures_of_any_size_without_objects_are_augmented(size):
    image = np.zeros((*size, 3), np.uint8)
    full = cropping(SMALL.scales, SMALL_CROP.crop.scales, (38, 60), empty=False)
    for augmentation in (SMALL, SMALL_CROP, full):
        for seed in range(2):
            pixels, target = augment(image, rectangles([], size), augmentation, np.random.default_rng(seed), masks=True)
            assert target["boxes"].shape == (0, 4)
            assert target["masks"].shape == (0, *pixels.shape[1:])


def test_each_short_side_is_drawn_unless_the_long_side_bounds_it():
    scales, rng = Scales(range(600, 1801), 2000), np.random.default_rng(0)
    drawn = [scales.draw((100, 100), rng) for _ in range(20000)]
    assert set(drawn) == {(side, side) for side in range(600, 1801)}
    assert {scales.draw((100, 1000), rng) for _ in range(100)} == {(200, 2000)}


def test_the_same_state_draws_the_same():
    image, objects = scene(5, (80, 90))
    (first, a), (second, b), (other, _) = (
        augment(image, objects, SMALL_CROP, np.random.default_rng(seed), masks=True) for seed in (5, 5, 6)
    )
    assert torch.equal(first, second)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert first.shape != other.shape or not torch.equal(first, other)


def test_masks_that_are_not_there_or_damaged_are_refused():
    image, objects = scene(6, (80, 90))
    bare = Objects(objects.boxes, objects.labels, objects.ignored, objects.areas, None)
    with pytest.raises(ValueError, match="masks are wanted, but the objects have none"):
        augment(image, bare, SMALL, np.random.default_rng(0), masks=True)
    damaged = tuple({"size": [80, 90], "counts": b"P" * 40} for _ in objects.boxes)
    spoilt = Objects(objects.boxes, objects.labels, objects.ignored, objects.areas, damaged)
    with pytest.raises(ValueError, match="RLE"):
        augment(image, spoilt, SMALL, np.random.default_rng(0), masks=True)


@pytest.mark.parametrize(
    "options",
    [
        lambda: Scales((), 8),
        lambda: Scales((0,), 8),
        lambda: Scales((8,), 0),
        lambda: cropping(SMALL.scales, SMALL.scales, sides=(5, 4)),
        lambda: replace(SMALL_CROP.crop, probability=2.0),
        lambda: resizing(8, flip=-1.0),
    ],
)
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=r"(Scales|Crop|Augmentation): "):
        options()
