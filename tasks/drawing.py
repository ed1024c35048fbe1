"""Draw with OpenCV: text, pictures put together, predicted classes as bars. Knows no task.

Like every picture, what is drawn on is an array uint8 [H, W, 3] in RGB order.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from internimage.tasks.images import Image

Colour = tuple[int, int, int]

INK, GREY, TRACK, BLUE, PALE_BLUE = (31, 35, 40), (110, 118, 129), (234, 238, 242), (9, 105, 218), (136, 180, 230)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_predictions(image: Image, title: str, names: Sequence[str], probabilities: Sequence[float]) -> Image:
    """Draw a picture beside its best classes, the first of them emphasised.

    Args:
        image: uint8 [H, W, 3].
        title: a line above the classes, for one the file's name.
        names: best class first.
        probabilities: of each name, in [0, 1].
    """
    margin, row, panel = 24, 52, 400
    height = max(320, 2 * margin + 44 + row * len(names))
    picture = fit(image, height, 480)
    canvas = np.full((height, picture.shape[1] + panel + 2 * margin, 3), 255, np.uint8)
    top = (height - picture.shape[0]) // 2
    canvas[:, : picture.shape[1]] = TRACK
    canvas[top : top + picture.shape[0], : picture.shape[1]] = picture

    left, right = picture.shape[1] + margin, canvas.shape[1] - margin
    write_text(canvas, shorten(title, panel, 0.5), left, margin + 14, 0.5, GREY)
    for i, (name, probability) in enumerate(zip(names, probabilities, strict=True)):
        base = margin + 44 + row * i
        percent = f"{probability:.1%}"
        percent_width = text_width(percent, 0.55)
        write_text(canvas, shorten(name, panel - percent_width - 16, 0.55), left, base + 14, 0.55, INK)
        write_text(canvas, percent, right - percent_width, base + 14, 0.55, INK if i == 0 else GREY)
        bar = canvas[base + 24 : base + 32, left:right]
        bar[:] = TRACK
        bar[:, : round(panel * probability)] = BLUE if i == 0 else PALE_BLUE
    return canvas


def fit(image: Image, height: int, width: int) -> Image:
    """Enlarge or shrink a picture, keeping its aspect ratio, until it touches the sides of a box."""
    scale = min(height / image.shape[0], width / image.shape[1])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR).astype(np.uint8)


def write_text(canvas: Image, text: str, x: int, y: int, scale: float, colour: Colour, *, thickness: int = 1) -> None:
    """Write one line into the picture; (x, y) is where its baseline starts, and capitals are 22 * scale pixels high."""
    cv2.putText(canvas, text, (x, y), _FONT, scale, colour, thickness, cv2.LINE_AA)


def text_width(text: str, scale: float) -> int:
    return int(cv2.getTextSize(text, _FONT, scale, 1)[0][0])


def shorten(text: str, width: int, scale: float) -> str:
    """The text, with its end cut off where it would be wider than `width` pixels."""
    if text_width(text, scale) <= width:
        return text
    while text and text_width(text + "...", scale) > width:
        text = text[:-1]
    return text.rstrip() + "..."


def text_line(text: str, width: int, scale: float, colour: Colour) -> Image:
    """One line of text, shortened to the width, as a white picture."""
    line = np.full((round(40 * scale), width, 3), 255, np.uint8)
    write_text(line, shorten(text, width, scale), 0, round(28 * scale), scale, colour)
    return line


def join(pictures: Sequence[Image], *, axis: int, gap: int) -> Image:
    """Put pictures below each other (axis 0) or side by side (axis 1), on white, aligned at the left or the top."""
    across = max(picture.shape[1 - axis] for picture in pictures)
    parts = []
    for i, picture in enumerate(pictures):
        padding = [(0, 0), (0, 0), (0, 0)]
        padding[axis] = (gap if i else 0, 0)
        padding[1 - axis] = (0, across - picture.shape[1 - axis])
        parts.append(np.pad(picture, padding, constant_values=255))
    return np.concatenate(parts, axis=axis)
