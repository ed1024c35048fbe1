"""Tags stand inside the image, never on each other, and can be read; masks tint what they cover and nothing else."""

import cv2
import numpy as np
import pytest
from detection_cases import SIZE, ellipses
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_masks

from internimage.tasks.detection.overlays import class_colours, line_width, overlay, place_tags, text_colour

pytestmark = pytest.mark.once


def luminance(colour: tuple[int, ...]) -> float:
    """WCAG 2.1, relative luminance."""
    channels = [value / 255 for value in colour]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_has_contrast_on_every_class_and_the_first_classes_differ() -> None:
    colours = class_colours(200)
    for colour in colours:
        bright, dark = sorted((luminance(tuple(colour.tolist())), luminance(text_colour(colour))), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5  # WCAG's level AA
    np.testing.assert_array_equal(class_colours(7), colours[:7])
    first = colours[:12].astype(int)
    apart = np.abs(first[:, None] - first).sum(axis=2) + 1000 * np.eye(12)
    assert apart.min() > 60


@given(st.integers(0, 2**32 - 1), st.integers(1, 900), st.integers(1, 900), st.integers(0, 30))
@settings(max_examples=100, deadline=None)
def test_tags_stand_inside_and_apart(seed: int, height: int, width: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, [width, height], (count, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    captions = ["a name that is long " * int(rng.integers(1, 5)) for _ in range(count)]
    covered = np.zeros((height, width), int)
    for tag, number in place_tags((height, width), boxes, captions):
        assert 0 <= number < count
        assert tag.x >= 0 <= tag.y
        assert tag.x + tag.width <= width
        assert tag.y + tag.height <= height
        assert 22 * tag.scale >= 8  # pixels of a capital
        covered[tag.y : tag.y + tag.height, tag.x : tag.x + tag.width] += 1
        assert cv2.getTextSize(tag.text, cv2.FONT_HERSHEY_SIMPLEX, tag.scale, 1)[0][0] <= tag.width
    assert covered.max(initial=0) <= 1


@pytest.mark.parametrize("size", [(100, 100), (480, 640), (2160, 3840)])
def test_lines_and_text_grow_with_the_image(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    width = line_width(image)
    assert width == max(1, round(min(size) / 300))
    box = np.array([[0.3 * size[1], 0.3 * size[0], 0.9 * size[1], 0.9 * size[0]]])
    ((tag, _),) = place_tags(size, box.astype(int), ["cat 0.91"])
    assert 0.02 <= tag.height / min(size) <= 0.16
    drawn = overlay(image, box, np.array([[255, 200, 0]], np.uint8), ["cat 0.91"])
    row = drawn[round(0.6 * size[0])]
    assert 2 * width <= (row == [255, 200, 0]).all(axis=1).sum() <= 2 * width + 4


def test_a_mask_tints_what_it_covers_and_its_outline_only() -> None:
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    box = np.array([[30, 20, 90, 80]], np.float32)
    (mask,) = ellipses(box)
    drawn = overlay(image, box, np.array([[0, 200, 0]], np.uint8), masks=[mask])
    inside = cv2.erode(coco_masks.decode(mask), np.ones((3, 3))).astype(bool)
    blend = 0.55 * image[inside] + 0.45 * np.array([0, 200, 0])
    np.testing.assert_allclose(drawn[inside], blend, atol=0.51)
    np.testing.assert_array_equal(drawn[:18], image[:18])
    np.testing.assert_array_equal(drawn[:, 93:], image[:, 93:])


def test_a_mask_follows_the_image_to_another_size() -> None:
    (mask,) = ellipses(np.array([[30, 20, 90, 80]], np.float32))
    image = np.zeros((3 * SIZE[0], 3 * SIZE[1], 3), np.uint8)
    drawn = overlay(image, np.zeros((0, 4)), np.array([[200, 0, 0]], np.uint8)[:0])
    assert not drawn.any()
    drawn = overlay(image, np.array([[90, 60, 270, 240]]), np.array([[200, 0, 0]], np.uint8), masks=[mask])
    assert (drawn > 0).any(axis=2).mean() == pytest.approx(coco_masks.area(mask) / SIZE[0] / SIZE[1], rel=0.1)


def test_crowds_name_large_objects_only() -> None:
    small = [[x, y, x + 12, y + 12] for x in range(0, 300, 20) for y in range(0, 200, 20)]
    boxes = np.array([*small, [20, 20, 280, 180]])
    tags = list(place_tags((200, 300), boxes, ["cell 0.99"] * len(boxes)))
    assert [number for _, number in tags] == [len(small)]
    assert len(list(place_tags((200, 300), boxes[:2], ["cell 0.99"] * 2))) == 2


def test_the_image_itself_stays_as_it_is() -> None:
    image = np.full((50, 60, 3), 7, np.uint8)
    overlay(image, np.array([[5, 5, 30, 30]]), class_colours(1), ["cat"])
    assert (image == 7).all()
