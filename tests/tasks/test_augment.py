"""The training augmentation draws crops, flips, colours and boxes as published, from one generator alone."""

import dataclasses
import itertools
import math
import random
from collections import Counter
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from internimage.models import IMAGENET_MEAN, IMAGENET_STD
from internimage.tasks.augment import Augmentation, augment, draw_crop, erase, jitter_colours
from internimage.tasks.images import normalise
from internimage.tasks.rand_augment import parse_policy, rand_augment

PLAIN = Augmentation(32, flip=0, rand_augment="", color_jitter=0, erasing=0)  # a crop and nothing else
DEFAULT_CROP = ((0.08, 1.0), (3 / 4, 4 / 3))
LIKELY = 1e-3  # a fixed seed whose draw is less likely than this would be remarkable


def photo(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.5).reshape(height, width, 3)


def levels(pixels: Tensor) -> np.ndarray:
    """Undo the normalisation: float [H, W, 3], 0 to 255."""
    scaled = pixels.double() * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    return (scaled * 255).permute(1, 2, 0).numpy()


def crops(height: int, width: int, scale: tuple, ratio: tuple, count: int = 4000) -> np.ndarray:
    """[count, 4]: top, left, height and width."""
    rng = np.random.default_rng(0)
    return np.array([draw_crop(height, width, scale, ratio, rng) for _ in range(count)])


@pytest.mark.parametrize(("height", "width"), [(3000, 4000), (4096, 4096), (5000, 2500)])
def test_crops_have_an_allowed_area_and_aspect_ratio(height, width):
    top, left, rows, columns = crops(height, width, *DEFAULT_CROP).T
    rounding = 1 + 1 / min(rows.min(), columns.min())
    assert 0.08 / rounding <= (rows * columns / (height * width)).min() < 0.09
    assert 0.75 / rounding <= (columns / rows).min() < 0.76
    assert 1.32 < (columns / rows).max() <= 4 / 3 * rounding
    assert top.min() >= 0
    assert left.min() >= 0
    assert (top + rows).max() <= height
    assert (left + columns).max() <= width


def test_the_aspect_ratio_is_that_of_width_to_height():
    _, _, rows, columns = crops(1000, 1000, (0.05, 0.2), (2.0, 3.0), 500).T
    assert 1.95 < (columns / rows).min() < (columns / rows).max() < 3.05


def test_where_every_crop_fits_the_area_is_uniform_the_ratio_log_uniform_and_the_place_uniform():
    top, left, rows, columns = crops(100_000, 100_000, (0.08, 0.5), (3 / 4, 4 / 3)).T
    area, log_ratio = rows * columns / 1e10, np.log(columns / rows)
    assert stats.kstest(area, stats.uniform(0.08, 0.42).cdf).pvalue > LIKELY
    assert stats.kstest(log_ratio, stats.uniform(math.log(3 / 4), 2 * math.log(4 / 3)).cdf).pvalue > LIKELY
    for start, room in ((top, 100_000 - rows), (left, 100_000 - columns)):
        assert stats.kstest(start / room, stats.uniform.cdf).pvalue > LIKELY
    assert abs(stats.spearmanr(area, log_ratio).statistic) < 0.06


def test_crops_that_do_not_fit_are_drawn_again():
    """The distribution is that of drawing many at once and keeping those that fit."""
    height, width = 60_000, 100_000
    _, _, rows, columns = crops(height, width, *DEFAULT_CROP).T
    rng = np.random.default_rng(1)
    area = rng.uniform(0.08, 1, 20_000) * height * width
    ratio = np.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3), 20_000))
    fits = (area * ratio <= width**2) & (area / ratio <= height**2)
    assert 0.5 < fits.mean() < 0.9
    assert stats.ks_2samp(rows * columns, area[fits]).pvalue > LIKELY
    assert stats.ks_2samp(columns / rows, ratio[fits]).pvalue > LIKELY


@pytest.mark.parametrize(
    ("height", "width", "ratio", "box"),
    [
        (100, 1000, (3 / 4, 4 / 3), (0, 433, 100, 133)),
        (1000, 100, (3 / 4, 4 / 3), (433, 0, 133, 100)),
        (120, 100, (2.0, 3.0), (35, 0, 50, 100)),
        (1, 100_000, (3 / 4, 4 / 3), (0, 49_999, 1, 1)),
        (9973, 10007, (0.5, 2.0), (0, 0, 9973, 10007)),
    ],
)
def test_where_no_crop_fits_it_is_the_largest_in_the_middle(height, width, ratio, box):
    assert {tuple(crop) for crop in crops(height, width, (1.0, 1.0), ratio, 50).tolist()} == {box}


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    scale=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)).map(sorted),
    ratio=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(sorted),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=200, deadline=None)
def test_every_crop_lies_in_the_picture_and_has_a_pixel(height, width, scale, ratio, seed):
    box = draw_crop(height, width, tuple(scale), tuple(ratio), np.random.default_rng(seed))
    assert 0 <= box.top < box.top + box.height <= height
    assert 0 <= box.left < box.left + box.width <= width


@pytest.mark.parametrize(("height", "width", "size"), [(160, 220, 128), (301, 199, 64), (37, 50, 96), (2, 90, 33)])
def test_a_crop_is_resized_as_pillow_does_it(height, width, size):
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is the reference; it comes with matplotlib")
    image = photo(height, width)
    plain = dataclasses.replace(PLAIN, size=size)
    for seed in range(20):
        box = draw_crop(height, width, *DEFAULT_CROP, np.random.default_rng(seed))
        crop = pillow.fromarray(image[box.top : box.top + box.height, box.left : box.left + box.width])
        rows = crop.resize((size, box.height), pillow.Resampling.BICUBIC)  # Pillow alone might do the columns first
        expected = np.asarray(rows.resize((size, size), pillow.Resampling.BICUBIC)).astype(int)
        difference = np.abs(levels(augment(image, plain, np.random.default_rng(seed))) - expected)
        assert (difference > 0.5).mean() < 0.01
        assert difference.max() < 2.5


def test_the_flip_mirrors_the_picture():
    flipped = dataclasses.replace(PLAIN, flip=1)
    for seed in range(5):
        straight, mirrored = (augment(photo(), each, np.random.default_rng(seed)) for each in (PLAIN, flipped))
        assert torch.equal(mirrored, straight.flip(2))
        assert not torch.equal(mirrored, straight)


@pytest.mark.parametrize("flip", [0.5, 0.2])
def test_the_share_of_flipped_pictures_is_the_probability(flip):
    ramp = np.broadcast_to(np.arange(0, 250, 25, dtype=np.uint8)[None, :, None], (10, 10, 3)).copy()
    rng = np.random.default_rng(0)
    augmentation = dataclasses.replace(PLAIN, size=8, crop_scale=(1.0, 1.0), flip=flip)
    drawn = [augment(ramp, augmentation, rng)[0, 0] for _ in range(800)]
    falling = sum((row[0] > row[-1]).item() for row in drawn)
    assert stats.binomtest(falling, 800, flip).pvalue > LIKELY


def erased_box(pixels: Tensor, background: Tensor) -> tuple[int, int, int, int] | None:
    """Top, left, height and width of what differs; all of it must."""
    changed = (pixels != background).any(0)
    if not changed.any():
        return None
    rows, columns = changed.any(1).nonzero()[:, 0], changed.any(0).nonzero()[:, 0]
    height, width = (int(each[-1] - each[0]) + 1 for each in (rows, columns))
    assert changed.sum() == height * width
    return int(rows[0]), int(columns[0]), height, width


def test_erasing_fills_one_box_of_the_published_area_and_aspect_ratio():
    rng = np.random.default_rng(0)
    background = torch.full((3, 200, 200), 7.0)
    boxes = []
    for _ in range(800):
        pixels = background.clone()
        erase(pixels, rng)
        boxes.append(erased_box(pixels, background))
    top, left, height, width = np.array([box for box in boxes if box]).T
    assert len(top) == len(boxes)
    rounding = 1 + 1 / min(height.min(), width.min())
    area, ratio = height * width / 200**2, height / width
    assert 0.02 / rounding <= area.min() < 0.03
    assert 0.32 < area.max() <= rounding / 3
    assert 0.3 / rounding <= ratio.min() < 0.33
    assert 3 < ratio.max() <= rounding / 0.3
    small = area < 0.25  # these always fit, so their distributions are those that were drawn
    assert stats.kstest(area[small], stats.uniform(area.min(), 0.25 - area.min()).cdf).pvalue > LIKELY
    assert stats.kstest(np.log(ratio[small]), stats.uniform(math.log(0.3), -2 * math.log(0.3)).cdf).pvalue > LIKELY
    assert stats.kstest(left[small] / (200 - width[small]), stats.uniform.cdf).pvalue > LIKELY
    assert stats.kstest(top[small] / (200 - height[small]), stats.uniform.cdf).pvalue > LIKELY


def test_the_noise_is_standard_normal_in_each_channel():
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(20):
        pixels = torch.full((3, 64, 64), 7.0)
        erase(pixels, rng)
        samples.append(pixels[:, (pixels != 7).all(0)])
    noise = torch.cat(samples, dim=1)
    for channel in noise:
        assert stats.kstest(channel.numpy(), stats.norm.cdf).pvalue > LIKELY
    assert (torch.corrcoef(noise) - torch.eye(3)).abs().max() < 0.05


@pytest.mark.parametrize("erasing", [0.0, 0.25, 1.0])
def test_the_share_of_erased_pictures_is_the_probability(erasing):
    rng = np.random.default_rng(0)
    augmentation = dataclasses.replace(PLAIN, erasing=erasing)
    image = np.full((40, 40, 3), 90, np.uint8)
    background = normalise(np.full((32, 32, 3), 90, np.uint8))
    erased = sum(erased_box(augment(image, augmentation, rng), background) is not None for _ in range(600))
    assert stats.binomtest(erased, 600, erasing).pvalue > LIKELY


def test_jitter_scales_brightness_by_a_uniform_factor():
    grey = np.full((1, 1, 3), 100, np.uint8)  # contrast and saturation leave it as it is
    rng = np.random.default_rng(0)
    factors = np.array([jitter_colours(grey, 0.4, rng)[0, 0, 0] for _ in range(3000)]) / 100 + rng.uniform(
        0, 0.01, 3000
    )
    assert stats.kstest(factors, stats.uniform(0.6, 0.8).cdf).pvalue > LIKELY


def test_jitter_scales_contrast_by_a_factor_around_1():
    halves = np.full((2, 2, 3), 70, np.uint8)
    halves[0] = 110
    rng = np.random.default_rng(0)
    drawn = np.array([jitter_colours(halves, 0.4, rng)[:, 0, 0].astype(float) for _ in range(3000)])
    factors = (drawn[:, 0] - drawn[:, 1]) / drawn.sum(1) / (40 / 180)  # brightness cancels
    assert factors.mean() == pytest.approx(1, abs=0.02)
    assert factors.var() == pytest.approx(0.8**2 / 12, rel=0.1)
    assert 0.55 < factors.min() < 0.63
    assert 1.37 < factors.max() < 1.45


def test_jitter_scales_saturation_independently_of_contrast():
    brown = np.full((1, 1, 3), (120, 100, 60), np.uint8)
    rng = np.random.default_rng(0)
    drawn = np.array([jitter_colours(brown, 0.4, rng)[0, 0].astype(float) for _ in range(3000)])
    factors = (drawn[:, 0] - drawn[:, 2]) / (drawn @ (0.299, 0.587, 0.114))
    factors /= 60 / (brown[0, 0] @ (0.299, 0.587, 0.114))
    # A constant colour's saturation grows with either factor, so this is the product of two uniform ones. Each of the
    # three changes cuts a fraction off the grey of about 100.
    assert factors.mean() == pytest.approx(1.01, abs=0.02)
    assert factors.var() == pytest.approx((1 + 0.8**2 / 12) ** 2 - 1, rel=0.1)


def test_jitter_changes_colours_in_each_of_the_six_orders():
    """Clipping and rounding make the order visible: what is brightened to white first has lost its contrast."""
    pytest.importorskip("PIL", reason="Pillow is the reference; it comes with matplotlib")
    from PIL import Image, ImageEnhance

    image = np.array([[(250, 220, 200), (140, 140, 140), (60, 90, 20)]], np.uint8)
    expected = []
    for order in itertools.permutations((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)):
        changed = Image.fromarray(image)
        for enhancer in order:
            changed = enhancer(changed).enhance(1.4)
        expected.append(np.asarray(changed).astype(int))
    largest = SimpleNamespace(
        permutation=np.random.default_rng(0).permutation,
        uniform=lambda low, high: high,
    )
    drawn = [jitter_colours(image, 0.4, largest).astype(int) for _ in range(600)]
    assert all(min(np.abs(each - one).max() for one in expected) <= 1 for each in drawn)
    counts = Counter(each.tobytes() for each in drawn)
    assert len(counts) == 6
    assert stats.chisquare(list(counts.values())).pvalue > LIKELY


def test_rand_augment_takes_the_place_of_colour_jitter():
    image = np.full((40, 40, 3), 100, np.uint8)
    augmentation = dataclasses.replace(PLAIN, rand_augment="rand-p0", color_jitter=1.0)
    for seed in range(10):
        np.testing.assert_allclose(levels(augment(image, augmentation, np.random.default_rng(seed))), 100, atol=1e-3)
    jittered = dataclasses.replace(PLAIN, color_jitter=1.0)
    assert {levels(augment(image, jittered, np.random.default_rng(s))).mean().round(1) for s in range(10)} != {100}


def test_rand_augment_gets_the_resized_picture():
    """With the crop of the whole picture and no flip, all that happens is resize, RandAugment, normalise."""
    image = photo(32, 32)
    text = "rand-m9-mstd0.5-inc1-p1"
    augmentation = dataclasses.replace(PLAIN, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), rand_augment=text)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        assert draw_crop(32, 32, (1.0, 1.0), (1.0, 1.0), rng) == (0, 0, 32, 32)
        rng.random()  # of the flip
        expected = normalise(rand_augment(image, parse_policy(text), rng))
        assert torch.equal(augment(image, augmentation, np.random.default_rng(seed)), expected)


@given(
    seed=st.integers(0, 2**32),
    height=st.one_of(st.integers(1, 3), st.integers(4, 120)),
    width=st.one_of(st.integers(1, 3), st.integers(4, 120)),
    size=st.integers(1, 64),
    text=st.sampled_from(["", "rand-m9-mstd0.5-inc1", "rand-n4-p1"]),
)
@settings(max_examples=100, deadline=None)
def test_any_picture_becomes_a_finite_square_and_stays_as_it_was(seed, height, width, size, text):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = image.copy()
    augmentation = Augmentation(size, rand_augment=text, erasing=0.5)
    pixels = augment(image, augmentation, np.random.default_rng(seed))
    assert pixels.shape == (3, size, size)
    assert pixels.dtype == torch.float32
    assert pixels.isfinite().all()
    np.testing.assert_array_equal(image, before)
    assert torch.equal(pixels, augment(image, augmentation, np.random.default_rng(seed)))


@pytest.mark.parametrize(("height", "width"), [(1, 100_000), (100_000, 1)])
def test_a_long_strip_is_augmented(height, width):
    image = np.zeros((height, width, 3), np.uint8)
    assert augment(image, Augmentation(224), np.random.default_rng(0)).shape == (3, 224, 224)


def test_all_randomness_comes_from_the_generator():
    augmentation = Augmentation(32, erasing=1.0)
    results = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        cv2.setRNGSeed(seed)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        rng = np.random.default_rng(0)
        results.append(torch.stack([augment(photo(), augmentation, rng) for _ in range(20)]))
        assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert torch.equal(*results)
    assert len({pixels.sum().item() for pixels in results[0]}) == 20  # and no two pictures are the same


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "size must be at least 1 pixel, got 0"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale must be .* 0 < low <= high <= 1, got"),
        ({"crop_scale": (0.5, 1.5)}, "crop_scale"),
        ({"crop_scale": (0.5, 0.2)}, "crop_scale"),
        ({"crop_ratio": (2.0, 1.0)}, r"crop_ratio must be .* 0 < low <= high, got \(2.0, 1.0\)"),
        ({"crop_ratio": (1.0, math.inf)}, "crop_ratio"),
        ({"flip": 1.5}, "flip must be from 0 to 1, got 1.5"),
        ({"flip": math.nan}, "flip"),
        ({"erasing": -0.1}, "erasing"),
        ({"color_jitter": 2.0}, "color_jitter"),
        ({"rand_augment": "rand-m9-x1"}, "rand_augment: can't read 'x1'"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused_at_once(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PLAIN, **change)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 0, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
    ],
)
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(ValueError, match=r"augment: image must be uint8 \[H, W, 3\].*got"):
        augment(image, PLAIN, np.random.default_rng(0))
