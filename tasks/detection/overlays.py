"""Draw objects on an image: masks, boxes, and tags that say what they are.

Lines and text grow with the image, and lines are thin around small objects. Colours are uint8 [K, 3] in RGB.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from internimage.tasks.detection.objects import RLE
from internimage.tasks.detection.pycoco import mask_tools
from internimage.tasks.drawing import shorten, text_width, write_text
from internimage.tasks.images import Image

Colours = NDArray[np.uint8]

IGNORED = (150, 150, 150)  # colour of what doesn't count

_GOLDEN = 0.618034  # turn of the hue from class to class, so that no two soon look alike
_FIRST_HUE = 0.58
_SHADES = ((0.9, 0.95), (0.8, 0.7), (0.7, 0.85))  # saturation and value in turn
_SIDE_PER_LINE_WIDTH = 300  # pixels of the shorter side
_OBJECT_PER_LINE_WIDTH = 15  # pixels of the shorter side of a box
_SIDE_PER_TEXT_SCALE = 1200
_LEAST_TEXT_SCALE = 0.4  # smaller is not legible
_CROWDED = 0.08  # share of the image that all tags would cover
_OPACITY = 0.45


def class_colours(count: int) -> Colours:
    """A colour for each class: uint8 [count, 3]. That of a class depends on its label alone."""
    colours = np.zeros((count, 3), np.uint8)
    for label in range(count):
        hue = (_FIRST_HUE + _GOLDEN * label) % 1
        rgb = colorsys.hsv_to_rgb(hue, *_SHADES[label % len(_SHADES)])
        colours[label] = [round(255 * channel) for channel in rgb]
    return colours


def overlay(
    image: Image,
    boxes: NDArray[Any],
    colours: Colours,
    captions: Sequence[str] = (),
    masks: Sequence[RLE] | None = None,
) -> Image:
    """A copy of an image with K objects drawn on it.

    A tag stands above its box or at the next free place; where all are taken by tags of objects before it, it is left
    out. In crowds those are left out that are larger than their boxes.

    Args:
        image: uint8 [H, W, 3].
        boxes: [K, 4], corners, pixels of the image.
        colours: uint8 [K, 3].
        captions: what the tags say; none: no tags.
        masks: of the objects, of the image's size or of another one that the image was resized from.
    """
    drawn = image.copy()
    height, length = image.shape[:2]
    corners = np.rint(boxes).astype(int).clip(0, [length - 1, height - 1] * 2)
    sides = (corners[:, 2:] - corners[:, :2]).min(axis=1)
    widths = (sides // _OBJECT_PER_LINE_WIDTH).clip(1, line_width(image)).tolist()
    for mask, colour, width in zip(masks or (), colours, widths, strict=masks is not None):
        _draw_mask(drawn, mask, colour, width)
    for (x1, y1, x2, y2), colour, width in zip(corners.tolist(), colours.tolist(), widths, strict=True):
        cv2.rectangle(drawn, (x1, y1), (x2, y2), colour, width)
    for tag, number in place_tags(image.shape[:2], corners, captions):
        _draw_tag(drawn, tag, colours[number])
    return drawn


def line_width(image: Image) -> int:
    """Of the boxes of large objects, pixels."""
    side: int = min(image.shape[:2])
    return max(1, round(side / _SIDE_PER_LINE_WIDTH))


class Tag(NamedTuple):
    """Where a caption stands: left, top, width and height in pixels, and the scale of the text."""

    text: str
    x: int
    y: int
    width: int
    height: int
    scale: float


def place_tags(size: Sequence[int], boxes: NDArray[np.int_], captions: Sequence[str]) -> Iterator[tuple[Tag, int]]:
    """The tags that find a place inside an image of this height and width, with the numbers of their boxes.

    None overlaps another.
    """
    height, length = size
    scale = max(_LEAST_TEXT_SCALE, min(size) / _SIDE_PER_TEXT_SCALE)
    tall, margin = round(36 * scale), max(2, round(8 * scale))
    if tall > height or length < 4 * tall:
        return
    texts = [shorten(text, length - 2 * margin, scale) for text in captions]
    widths = [min(text_width(text, scale) + 2 * margin, length) for text in texts]
    crowded = len(texts) > 1 and sum(widths) * tall > _CROWDED * height * length
    taken = np.zeros((0, 4), int)
    for number, (text, wide) in enumerate(zip(texts, widths, strict=True)):
        x1, y1, x2, y2 = boxes[number].tolist()
        if crowded and (x2 - x1) * (y2 - y1) < wide * tall:
            continue
        for left, top in ((x1, y1 - tall), (x1, y2), (x2 - wide, y1 - tall), (x1, y1), (x2 - wide, y2 - tall)):
            x, y = min(max(left, 0), length - wide), min(max(top, 0), height - tall)
            place = np.array([x, y, x + wide, y + tall])
            if not ((place[:2] < taken[:, 2:]) & (place[2:] > taken[:, :2])).all(axis=1).any():
                taken = np.vstack((taken, place))
                yield Tag(text, x, y, wide, tall, scale), number
                break


def text_colour(colour: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Black or white, whichever is easier to read on this colour (WCAG 2.1, contrast ratio)."""
    linear = np.where(colour / 255 <= 0.04045, colour / 255 / 12.92, ((colour / 255 + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ (0.2126, 0.7152, 0.0722))
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 1.05 * 0.05 else (255, 255, 255)


def _draw_tag(drawn: Image, tag: Tag, colour: NDArray[np.uint8]) -> None:
    drawn[tag.y : tag.y + tag.height, tag.x : tag.x + tag.width] = colour
    place = drawn[tag.y : tag.y + tag.height, tag.x : tag.x + tag.width]
    text = np.ascontiguousarray(place)
    margin, thickness = max(2, round(8 * tag.scale)), max(1, round(1.4 * tag.scale))
    write_text(text, tag.text, margin, round(26 * tag.scale), tag.scale, text_colour(colour), thickness=thickness)
    place[:] = text


def _draw_mask(drawn: Image, rle: RLE, colour: NDArray[np.uint8], line_width: int) -> None:
    mask = mask_tools().decode(rle)
    if mask.shape != drawn.shape[:2]:
        mask = (cv2.resize(255 * mask, drawn.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 127).astype(np.uint8)
    x, y, width, height = cv2.boundingRect(mask)
    if not width:
        return
    part, inside = drawn[y : y + height, x : x + width], mask[y : y + height, x : x + width].astype(bool)
    part[inside] = np.rint((1 - _OPACITY) * part[inside] + _OPACITY * colour)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, outlines, -1, colour.tolist(), line_width)
