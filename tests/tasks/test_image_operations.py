"""Each operation does to a picture what Pillow does, within a bound that the test states."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internimage.tasks import image_operations as ops

pytest.importorskip("PIL", reason="Pillow is the reference; it comes with matplotlib")
from PIL import Image as Pillow
from PIL import ImageEnhance, ImageOps

pytestmark = pytest.mark.once

FILL = (124, 116, 104)  # ImageNet's mean colour, of 255


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise whose power falls with frequency as in photographs; a few values are clipped."""
    rng = np.random.default_rng(seed)
    layers = [
        scale * cv2.GaussianBlur(rng.standard_normal((height, width, 3)), (0, 0), scale).reshape(height, width, 3)
        for scale in (1, 2, 4, 8, 16, 32)
    ]
    spread = sum(layers) / max(np.std(sum(layers)), 1e-9)
    return np.clip(spread * 60 + (140, 120, 100), 0, 255).astype(np.uint8)


def grey(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.repeat(photo(height, width, seed)[..., :1], 3, axis=2)


def constant(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.full((height, width, 3), np.random.default_rng(seed).integers(0, 256, 3), np.uint8)


def white_noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


SIDES = st.one_of(st.integers(1, 3), st.integers(4, 70))
PICTURES = st.builds(
    lambda make, *arguments: make(*arguments),
    st.sampled_from([photo, grey, constant, white_noise]),
    SIDES,
    SIDES,
    st.integers(0, 1000),
)


def pillow(apply: Callable[..., Any]) -> Callable[..., np.ndarray]:
    return lambda image, *arguments: np.asarray(apply(Pillow.fromarray(image), *arguments))


def enhance(enhancer: Any) -> Callable[..., np.ndarray]:
    return pillow(lambda image, factor: enhancer(image).enhance(factor))


def solarize_add(image: Any, addition: int) -> Any:
    return image.point([min(255, value + addition) if value < 128 else value for value in range(256)] * 3)


TABLES = {
    "autocontrast": (ops.autocontrast, pillow(ImageOps.autocontrast), st.tuples()),
    "equalize": (ops.equalize, pillow(ImageOps.equalize), st.tuples()),
    "invert": (ops.invert, pillow(ImageOps.invert), st.tuples()),
    "posterize": (ops.posterize, pillow(ImageOps.posterize), st.tuples(st.integers(1, 8))),
    "solarize": (ops.solarize, pillow(ImageOps.solarize), st.tuples(st.integers(0, 256))),
    "solarize_add": (ops.solarize_add, pillow(solarize_add), st.tuples(st.integers(0, 128))),
}
ENHANCEMENTS = {
    "colour": (ops.colour, enhance(ImageEnhance.Color)),
    "contrast": (ops.contrast, enhance(ImageEnhance.Contrast)),
    "brightness": (ops.brightness, enhance(ImageEnhance.Brightness)),
    "sharpness": (ops.sharpness, enhance(ImageEnhance.Sharpness)),
}


@pytest.mark.parametrize("name", TABLES)
@given(data=st.data(), image=PICTURES)
@settings(max_examples=40, deadline=None)
def test_what_is_a_table_of_values_equals_pillows_exactly(name, data, image):
    ours, theirs, arguments = TABLES[name]
    drawn = data.draw(arguments)
    np.testing.assert_array_equal(ours(image, *drawn), theirs(image, *drawn))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 32), (17, 31), (128, 131)])
def test_equalizing_equals_pillows_where_the_pixels_just_suffice(height, width):
    image = white_noise(height, width)
    equalized = ops.equalize(image)
    np.testing.assert_array_equal(equalized, pillow(ImageOps.equalize)(image))
    assert (equalized != image).any()


def test_posterizing_to_no_bits_leaves_black():
    assert ops.posterize(photo(9, 11), 0).max() == 0


@pytest.mark.parametrize("name", ENHANCEMENTS)
@given(image=PICTURES, factor=st.floats(0.1, 1.9))
@settings(max_examples=40, deadline=None)
def test_enhancements_differ_from_pillows_by_at_most_1(name, image, factor):
    ours, theirs = ENHANCEMENTS[name]
    np.testing.assert_allclose(ours(image, factor).astype(int), theirs(image, factor).astype(int), atol=1, rtol=0)


@pytest.mark.parametrize("factor", [0.1, 0.1907, 0.5, 0.7312, 1.0, 1.3141, 1.8093])
@pytest.mark.parametrize("name", ENHANCEMENTS)
def test_enhancements_equal_pillows_at_all_but_1_in_500_values(name, factor):
    ours, theirs = ENHANCEMENTS[name]
    image = photo(128, 131)
    assert (ours(image, factor) != theirs(image, factor)).mean() < 0.002


@pytest.mark.parametrize("name", ENHANCEMENTS)
@given(image=PICTURES)
@settings(max_examples=20, deadline=None)
def test_a_factor_of_1_changes_nothing(name, image):
    np.testing.assert_array_equal(ENHANCEMENTS[name][0](image, 1.0), image)


def affine(coefficients: Callable[[float, int, int], tuple[float, ...]]) -> Callable[..., Any]:
    return lambda image, argument, **options: image.transform(
        image.size, Pillow.Transform.AFFINE, coefficients(argument, *image.size), **options
    )


WARPS = {
    "rotate": (ops.rotate, lambda image, degrees, **options: image.rotate(degrees, **options), 30),
    "shear_x": (ops.shear_x, affine(lambda factor, width, height: (1, factor, 0, 0, 1, 0)), 0.3),
    "shear_y": (ops.shear_y, affine(lambda factor, width, height: (1, 0, 0, factor, 1, 0)), 0.3),
    "translate_x": (ops.translate_x, affine(lambda share, width, height: (1, 0, share * width, 0, 1, 0)), 0.45),
    "translate_y": (ops.translate_y, affine(lambda share, width, height: (1, 0, 0, 0, 1, share * height)), 0.45),
}
INTERPOLATIONS = {
    "bilinear": (cv2.INTER_LINEAR, Pillow.Resampling.BILINEAR),
    "bicubic": (cv2.INTER_CUBIC, Pillow.Resampling.BICUBIC),
}


@pytest.mark.parametrize("strength", [-1.0, -0.3, 0.11, 0.903])
@pytest.mark.parametrize("make", [photo, grey])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("name", WARPS)
def test_a_moved_picture_is_pillows_inside_and_the_mean_colour_outside(name, interpolation, make, strength):
    """Pillow cuts fractions off where we round, so it is darker by 0.5; its bicubic kernel is a little softer."""
    ours, theirs, most = WARPS[name]
    for_opencv, for_pillow = INTERPOLATIONS[interpolation]
    image = make(61, 83)
    argument = most * strength

    def pillows(picture: np.ndarray, fill: Any) -> np.ndarray:
        return np.asarray(theirs(Pillow.fromarray(picture), argument, resample=for_pillow, fillcolor=fill))

    core = np.zeros((61, 83), np.uint8)
    core[2:-2, 2:-2] = 255  # what is nearer to the border is mixed with the fill here and repeated in Pillow
    inside = pillows(core, 0) == 255
    empty = (pillows(np.full_like(core, 255), 0) == 0).astype(np.uint8)
    outside = cv2.erode(empty, np.ones((5, 5), np.uint8), borderValue=1) > 0

    moved = ours(image, argument, for_opencv)
    difference = moved[inside].astype(int) - pillows(image, FILL)[inside] - 0.5
    assert inside.mean() > 0.35
    assert (inside | outside).mean() > 0.8
    assert (moved[outside] == FILL).all()
    assert np.abs(difference).max() <= (1.5 if interpolation == "bilinear" else 8.5)
    assert np.abs(difference).mean() < (0.6 if interpolation == "bilinear" else 1.25)
    assert abs(difference.mean()) < 0.15


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("name", WARPS)
def test_not_moving_changes_nothing(name, interpolation):
    image = white_noise(13, 17)
    np.testing.assert_array_equal(WARPS[name][0](image, 0.0, INTERPOLATIONS[interpolation][0]), image)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("axis", [0, 1])
def test_moving_by_whole_pixels_copies_them(axis, interpolation):
    image = white_noise(20, 20)
    translate = (ops.translate_y, ops.translate_x)[axis]
    moved = np.moveaxis(translate(image, 0.25, INTERPOLATIONS[interpolation][0]), axis, 0)
    np.testing.assert_array_equal(moved[:15], np.moveaxis(image, axis, 0)[5:])
    assert (moved[15:] == FILL).all()


@pytest.mark.parametrize("name", WARPS)
@given(image=PICTURES, strength=st.floats(-1, 1), interpolation=st.sampled_from([cv2.INTER_LINEAR, cv2.INTER_CUBIC]))
@settings(max_examples=25, deadline=None)
def test_pictures_of_any_size_can_be_moved_and_stay_as_they_were(name, image, strength, interpolation):
    ours, _, most = WARPS[name]
    before = image.copy()
    moved = ours(image, most * strength, interpolation)
    assert moved.shape == image.shape
    assert moved.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
    if interpolation == cv2.INTER_LINEAR:  # which never leaves the range of what it mixes
        assert (moved <= np.maximum(image.max((0, 1)), FILL)).all()
        assert (moved >= np.minimum(image.min((0, 1)), FILL)).all()
