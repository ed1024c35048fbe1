"""The augmentation follows its definition; labels go where their pixels go."""

import colorsys

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from internimage.models import IMAGENET_MEAN, IMAGENET_STD
from internimage.tasks.segmentation.augment import Augmentation, augment, distort, draw_crop
from internimage.tasks.segmentation.class_names import IGNORED

COLOURS = np.array([[200, 40, 30], [30, 160, 60], [40, 60, 220]], np.uint8)


def mosaic(height, width, rng):
    """A picture whose colours tell its labels."""
    labels = cv2.resize(rng.integers(0, 3, (3, 4), dtype=np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return COLOURS[labels], labels


def denormalised(pixels):
    scaled = pixels * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None]
    return (255 * scaled).permute(1, 2, 0).numpy()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(40, 130), st.integers(40, 130))
def test_labels_go_where_their_pixels_go(seed, height, width):
    rng = np.random.default_rng(seed)
    image, labels = mosaic(height, width, rng)
    pixels, classes = augment(image, labels, Augmentation(crop=(64, 48), distortion=False), rng)
    assert pixels.shape == (3, 64, 48)
    assert classes.shape == (64, 48)
    classes = classes.numpy()
    inside = classes != IGNORED
    assert np.all(pixels.numpy()[:, ~inside] == 0)
    # Near the border of two classes, pixels are mixed.
    plain = inside & (cv2.erode(classes, np.ones((7, 7))) == cv2.dilate(classes, np.ones((7, 7))))
    nearest = np.abs(denormalised(pixels)[..., None, :] - COLOURS).sum(-1).argmin(-1)
    assert np.array_equal(nearest[plain], classes[plain])


def test_a_picture_smaller_than_the_crop_is_padded_at_the_right_and_below():
    image, labels = mosaic(20, 30, np.random.default_rng(0))
    augmentation = Augmentation(crop=(32, 48), ratio=(1.0, 1.0), flip=0.0, distortion=False)
    pixels, classes = augment(image, labels, augmentation, np.random.default_rng(0))
    assert np.array_equal(classes[:20, :30], labels)
    assert (classes[20:] == IGNORED).all()
    assert (classes[:, 30:] == IGNORED).all()
    assert np.abs(denormalised(pixels)[:20, :30] - image).max() < 0.01


def test_half_of_the_pictures_are_mirrored():
    image, labels = mosaic(64, 64, np.random.default_rng(1))
    plain = {"crop": (64, 64), "ratio": (1.0, 1.0), "distortion": False, "largest_class": 1.0}

    def drawn(seed, flip):
        return augment(image, labels, Augmentation(flip=flip, **plain), np.random.default_rng(seed))[1]

    mirrored = sum(bool(torch.equal(drawn(seed, 0.5), drawn(seed, 1.0))) for seed in range(200))
    assert 70 < mirrored < 130
    assert np.array_equal(drawn(0, 1.0), labels[:, ::-1])


def test_sizes_spread_over_the_ratio():
    image, labels = mosaic(100, 200, np.random.default_rng(2))
    augmentation = Augmentation(crop=(400, 800), bounds=(400, 200), ratio=(0.5, 2.0), distortion=False)
    widths = [
        int((augment(image, labels, augmentation, np.random.default_rng(seed))[1][0] != IGNORED).sum())
        for seed in range(100)
    ]
    assert min(widths) >= 200
    assert max(widths) <= 800
    assert 450 < np.mean(widths) < 550  # 400 times 1.25


def test_the_same_state_draws_the_same():
    image, labels = mosaic(80, 90, np.random.default_rng(3))
    first, second, other = (
        augment(image, labels, Augmentation(crop=(64, 64)), np.random.default_rng(s)) for s in (5, 5, 6)
    )
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])


def test_crops_are_drawn_again_while_one_class_has_too_much():
    labels = np.zeros((100, 100), np.uint8)
    labels[:, 60:] = 1
    labels[:10] = IGNORED  # doesn't count
    rng = np.random.default_rng(0)

    def shares(largest_class):
        for _ in range(300):
            rows, columns = draw_crop(labels, (40, 40), largest_class, rng)
            counts = np.bincount(labels[rows, columns].ravel(), minlength=256)[:IGNORED]
            yield counts.max() / counts.sum()

    free = np.mean([share >= 0.75 for share in shares(1.0)])
    assert 0.5 < free < 0.9  # a chance of 0.5 to the power of 11 and more is left of it
    assert np.mean([share >= 0.75 for share in shares(0.75)]) < 2 * free**11 + 0.02


def test_crops_reach_every_corner():
    labels = np.zeros((5, 7), np.uint8)
    rng = np.random.default_rng(0)
    drawn = {tuple(part.start for part in draw_crop(labels, (3, 4), 0.75, rng)) for _ in range(300)}
    assert drawn == {(top, left) for top in range(3) for left in range(4)}


class Script:
    """Draws that were written down: coins (below one half: yes), and numbers in the order they are asked for."""

    def __init__(self, coins, numbers):
        self.coins, self.numbers = iter(coins), iter(numbers)

    def random(self):
        return 0.25 if next(self.coins) else 0.75

    def uniform(self, low, high):
        number = next(self.numbers)
        assert low <= number <= high
        return number

    integers = uniform


def in_hsv(image, change):
    """Change hue, saturation and value, each in [0, 1], pixel by pixel."""
    flat = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*(pixel / 255)))) for pixel in image.reshape(-1, 3)]
    return 255 * np.array(flat).reshape(image.shape)


@pytest.mark.parametrize(
    ("coins", "numbers", "expected"),
    [
        # brightness? contrast last? contrast? saturation? hue?
        ((0, 0, 0, 0, 0), (), lambda x: x),
        ((1, 0, 0, 0, 0), (20.0,), lambda x: np.clip(x + 20.0, 0, 255)),
        ((1, 0, 0, 0, 0), (-30.5,), lambda x: np.clip(x - 30.5, 0, 255)),
        ((0, 0, 1, 0, 0), (1.4,), lambda x: np.clip(x * 1.4, 0, 255)),
        ((0, 1, 0, 0, 1), (0.6,), lambda x: x * 0.6),  # contrast comes last
        ((0, 0, 0, 1, 0), (0.7,), lambda x: in_hsv(x, lambda h, s, v: (h, 0.7 * s, v))),
        ((0, 0, 0, 0, 1), (15,), lambda x: in_hsv(x, lambda h, s, v: ((h + 15 / 180) % 1, s, v))),
        ((0, 0, 0, 0, 1), (-18,), lambda x: in_hsv(x, lambda h, s, v: ((h - 18 / 180) % 1, s, v))),
        ((1, 0, 1, 0, 0), (10.0, 0.5), lambda x: np.floor(np.clip(x + 10.0, 0, 255)) * 0.5),
        ((1, 1, 0, 0, 1), (10.0, 0.5), lambda x: np.floor(np.clip(x + 10.0, 0, 255)) * 0.5),
    ],
)
def test_distortion_does_what_its_draws_say(coins, numbers, expected):
    image = np.random.default_rng(0).integers(60, 200, (6, 7, 3), dtype=np.uint8)
    distorted = distort(image, Script(coins, numbers))
    # Whole numbers, and hues in steps of two degrees: of colours as strong as these, that is up to 3 of 255.
    in_colours = coins[3] or (coins[2:] == (0, 0, 1) and coins[1] == 0)
    assert np.abs(distorted - expected(image.astype(np.float64))).max() <= (6 if in_colours else 1)


@pytest.mark.parametrize(
    "options", [{"crop": (0, 4)}, {"ratio": (2.0, 0.5)}, {"largest_class": 1.5}, {"flip": -1.0}, {"bounds": (3,)}]
)
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="Augmentation: "):
        Augmentation(**{"crop": (32, 32), **options})
