"""What a segmentor sees of a picture in evaluation."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internimage.tasks.images import normalise
from internimage.tasks.resizing import fit_size
from internimage.tasks.segmentation.views import Views

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("size", "bounds", "factor", "expected"),
    [
        ((512, 683), (2048, 512), 1.0, (512, 683)),  # ADE20K's test: the short side decides
        ((300, 400), (2048, 512), 1.0, (512, 683)),
        ((100, 1000), (2048, 512), 1.0, (205, 2048)),  # the long side decides; 204.8 is rounded
        ((400, 300), (512, 2048), 1.0, (683, 512)),  # upright, and bounds in either order
        ((300, 400), (3584, 896), 768 / 896, (768, 1024)),  # a view of the multi-scale test
        ((300, 400), (2048, 512), 0.5, (256, 341)),
        ((360, 480), None, 0.75, (270, 360)),
        ((1, 1), None, 0.1, (1, 1)),
    ],
)
def test_pictures_are_fitted_to_bounds(size, bounds, factor, expected):
    assert fit_size(size, bounds, factor) == expected


@given(st.tuples(st.integers(8, 500), st.integers(8, 500)), st.tuples(st.integers(64, 900), st.integers(64, 900)))
def test_a_fitted_picture_touches_a_bound_and_passes_none(size, bounds):
    fitted = fit_size(size, bounds)
    assert max(fitted) <= max(bounds)
    assert min(fitted) <= min(bounds)
    assert max(fitted) == max(bounds) or min(fitted) == min(bounds)


def test_views_are_resized_twice_and_normalised():
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    whole, half = Views((640, 200), (1.0, 0.5), divisor=32)(image)
    once = cv2.resize(image, (267, 200), interpolation=cv2.INTER_LINEAR)  # 120 * 200 / 90 = 266.7
    assert np.array_equal(whole, normalise(cv2.resize(once, (288, 224), interpolation=cv2.INTER_LINEAR)))
    assert half.shape == (3, 128, 160)  # 100 x 133 before


def test_a_picture_of_fitting_size_is_not_resized():
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    (view,) = Views()(image)
    assert np.array_equal(view, normalise(image))


@pytest.mark.parametrize("options", [{"bounds": (0, 3)}, {"factors": ()}, {"factors": (0.0,)}, {"divisor": 0}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="Views: "):
        Views(**options)
