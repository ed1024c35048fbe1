"""Drawings show the picture whole, text that fits, and bars as long as the figures say."""

import cv2
import numpy as np
import pytest

from internimage.tasks import drawing

pytestmark = pytest.mark.once


def photo(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.5)


@pytest.mark.parametrize("size", [(1, 1), (60, 80), (900, 50), (50, 900)])
def test_the_drawing_shows_the_picture_and_a_bar_as_long_as_each_probability(size):
    names = ["Egyptian cat", "a name too long for the panel " * 5, "tabby"]
    picture = drawing.draw_predictions(photo(*size), "photo.jpg", names, [0.75, 0.2, 0.05])
    blue = (picture == drawing.BLUE).all(-1).sum(1).max()
    pale = (picture == drawing.PALE_BLUE).all(-1).sum(1)
    track = 400
    assert blue == pytest.approx(0.75 * track, abs=3)
    assert pale.max() == pytest.approx(0.2 * track, abs=3)
    assert pale[pale > 0].min() == pytest.approx(0.05 * track, abs=3)
    assert (picture[:, -24:] == 255).all()  # nothing runs over the margin


@pytest.mark.parametrize(("size", "fitted"), [((60, 80), (150, 200)), ((900, 50), (300, 17)), ((9, 4000), (1, 200))])
def test_a_fitted_picture_touches_its_box_and_keeps_its_aspect_ratio(size, fitted):
    assert drawing.fit(photo(*size), 300, 200).shape == (*fitted, 3)


@pytest.mark.parametrize("width", [20, 90, 400])
def test_a_line_of_text_ends_inside_its_width(width):
    line = drawing.text_line("sky and sea " * 9, width, 0.5, drawing.INK)
    assert line.shape == (20, width, 3)
    rows, columns = np.nonzero((line < 128).any(-1))
    assert 0 < rows.min() < rows.max() < 19
    assert columns.max() < width - 1


def test_joined_pictures_are_whole_and_white_lies_between():
    a, b = photo(10, 20) // 2, photo(14, 6) // 2
    beside = drawing.join([a, b], axis=1, gap=5)
    np.testing.assert_array_equal(beside[:10, :20], a)
    np.testing.assert_array_equal(beside[:, 25:], b)
    assert beside.shape == (14, 31, 3)
    below = drawing.join([a, b], axis=0, gap=3)
    np.testing.assert_array_equal(below[:10], a)
    np.testing.assert_array_equal(below[13:, :6], b)
    assert below.shape == (27, 20, 3)
    for joined in (beside, below):
        assert (joined == 255).all(-1).sum() == joined.shape[0] * joined.shape[1] - 10 * 20 - 14 * 6
