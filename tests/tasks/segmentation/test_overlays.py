"""Overlays colour each region as its class and leave the rest alone; the error map marks the wrong pixels only."""

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from internimage.tasks.segmentation.overlays import WRONG, error_map, overlay

pytestmark = pytest.mark.once


def photo(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.5).astype(np.uint8)


def regions(height: int, width: int, classes: int, *, seed: int = 0, ignored: bool = True) -> NDArray[np.uint8]:
    """Rectangles of random classes, the last of which is 255."""
    values = np.random.default_rng(seed).integers(0, classes + ignored, (5, 7), dtype=np.uint8)
    values[values == classes] = 255
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST).astype(np.uint8)


def palette(classes: int) -> NDArray[np.uint8]:
    colours = np.random.default_rng(9).permutation(64)[:classes]
    return np.stack([colours % 4, colours // 4 % 4, colours // 16], axis=1).astype(np.uint8) * 70 + 20


def far_from_borders(labels: NDArray[Any], distance: int) -> NDArray[np.bool_]:
    """Pixels that have no other label so near, each compared with its neighbours one by one."""
    padded = np.pad(labels, distance, mode="edge")
    height, width = labels.shape
    shifts = range(2 * distance + 1)
    return np.all([padded[y : y + height, x : x + width] == labels for y in shifts for x in shifts], axis=0)


@pytest.mark.parametrize("size", [(1, 1), (75, 100), (100, 75), (363, 481), (1100, 1500)])
@pytest.mark.parametrize("opacity", [0, 0.5, 1])
def test_inside_a_region_is_the_blend_and_pixels_without_a_class_are_untouched(
    size: tuple[int, int], opacity: float
) -> None:
    image, labels, colours = photo(*size), regions(*size, 12), palette(12)
    labels[0, 0] = 3
    drawn = overlay(image, labels, colours, opacity)
    np.testing.assert_array_equal(drawn[labels == 255], image[labels == 255])
    inside = (labels != 255) & far_from_borders(labels, max(1, min(size) // 500))
    blend = image[inside] * (1 - opacity) + colours[labels[inside]] * float(opacity)
    np.testing.assert_allclose(drawn[inside], blend, atol=0.51)
    assert drawn.dtype == np.uint8


def test_every_colour_of_the_palette_appears_and_a_light_region_has_dark_lines_a_dark_one_light_lines() -> None:
    colours = palette(30)
    labels = np.arange(30, dtype=np.uint8).reshape(5, 6).repeat(8, 0).repeat(8, 1)
    drawn = overlay(photo(*labels.shape), labels, colours, opacity=1)
    for label, colour in enumerate(colours):
        region = drawn[labels == label].reshape(-1, 3)
        plain = (region == colour).all(1)
        assert plain.sum() >= 49  # a line one pixel wide, on two sides at most
        lines = region[~plain].astype(float).mean(1)
        if len(lines):
            assert (lines < colour.mean()).all() or (lines > colour.mean()).all()
            assert np.abs(lines - colour.mean()).min() > 20


@pytest.mark.parametrize(("side", "width"), [(100, 1), (400, 1), (1080, 2), (2160, 4)])
def test_lines_grow_with_the_image(side: int, width: int) -> None:
    labels = np.zeros((side, side), np.uint8)
    labels[:, side // 2 :] = 1
    row = overlay(np.zeros((side, side, 3), np.uint8), labels, np.array([[9, 9, 9], [9, 9, 9]], np.uint8), 1)[side // 2]
    assert (row != 9).all(1).sum() == width


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_the_error_map_marks_exactly_the_wrong_pixels(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    truth = rng.choice([0, 1, 2, 255], (height, width)).astype(np.uint8)
    predicted = rng.integers(0, 3, (height, width))
    drawn = error_map(image, predicted, truth)
    np.testing.assert_array_equal((drawn == WRONG).all(2), (truth != 255) & (truth != predicted))
    others = drawn[(truth == 255) | (truth == predicted)]
    assert (others == others[:, :1]).all()  # grey
    assert (others >= 150).all()


def test_ignored_pixels_are_striped_and_right_ones_a_pale_image() -> None:
    image, truth = photo(120, 160), np.zeros((120, 160), np.uint8)
    truth[:, 80:] = 255
    drawn = error_map(image, truth * 0, truth)[..., 0]
    assert set(np.unique(drawn[:, 80:])) == {190, 255}
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :80]
    np.testing.assert_allclose(drawn[:, :80], 150 + 0.33 * grey, atol=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint16])
def test_labels_may_be_any_integers(dtype: Any) -> None:
    image, labels = photo(40, 50), regions(40, 50, 4)
    expected = overlay(image, labels, palette(4))
    np.testing.assert_array_equal(overlay(image, labels.astype(dtype), palette(4)), expected)


@pytest.mark.parametrize(
    ("labels", "opacity", "message"),
    [
        (np.zeros((50, 40), np.uint8), 0.5, r"of the image's size \[40, 50\], got \[50, 40\]"),
        (np.full((40, 50), 4), 0.5, "labels from 0 to 3, or 255 for no class, got 4"),
        (np.full((40, 50), -1), 0.5, "got -1"),
        (np.zeros((40, 50), np.uint8), 1.5, "opacity from 0 to 1, got 1.5"),
        (np.zeros((40, 50), np.uint8), float("nan"), "opacity from 0 to 1, got nan"),
    ],
)
def test_what_does_not_fit_is_refused(labels: NDArray[Any], opacity: float, message: str) -> None:
    image = photo(40, 50)
    before = image.copy()
    with pytest.raises(ValueError, match=message):
        overlay(image, labels, palette(4), opacity)
    np.testing.assert_array_equal(image, before)


def test_drawing_leaves_image_and_labels_as_they_are() -> None:
    image, labels, predicted = photo(40, 50), regions(40, 50, 4), regions(40, 50, 4, seed=1, ignored=False)
    copies = image.copy(), labels.copy(), predicted.copy()
    overlay(image, labels, palette(4))
    error_map(image, predicted, labels)
    for array, copy in zip((image, labels, predicted), copies, strict=True):
        np.testing.assert_array_equal(array, copy)
