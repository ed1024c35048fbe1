"""Pictures hold the panels, the figures and the legend that they promise, and fit a page at every size of image."""

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from internimage.tasks import drawing
from internimage.tasks.segmentation.overlays import error_map, overlay
from internimage.tasks.segmentation.pictures import class_counts, prediction_picture, sheet

pytestmark = pytest.mark.once

CLASSES = 6
NAMES = ["sky", "building", "pole", "road", "pavement", "tree"]
PALETTE = np.array(
    [[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222], [128, 128, 0]], np.uint8
)
Map = NDArray[np.uint8]


def example(height: int, width: int, classes: int = CLASSES, seed: int = 0) -> tuple[NDArray[np.uint8], Map, Map]:
    """Image, truth with ignored pixels, and a prediction that is right in most places."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8), (width, height)).astype(np.uint8)
    truth = cv2.resize(rng.integers(0, classes, (4, 6), dtype=np.uint8), (width, height), interpolation=0)
    predicted = np.roll(truth, width // 20, axis=1)
    truth[: height // 8] = 255
    return image, truth.astype(np.uint8), predicted.astype(np.uint8)


def position(picture: NDArray[np.uint8], part: NDArray[np.uint8]) -> tuple[int, int] | None:
    """Top and left of where the picture holds exactly this part, looked for by its middle."""
    if any(a < b for a, b in zip(picture.shape, part.shape, strict=True)):
        return None
    y, x = (max(0, side // 2 - 24) for side in part.shape[:2])
    left, top = cv2.minMaxLoc(cv2.matchTemplate(picture, part[y : y + 48, x : x + 48], cv2.TM_SQDIFF))[2]
    top, left = max(0, top - y), max(0, left - x)
    found = picture[top : top + part.shape[0], left : left + part.shape[1]]
    return (top, left) if np.array_equal(found, part) else None


def shows(picture: NDArray[np.uint8], text: str, scale: float, colour: tuple[int, int, int]) -> bool:
    canvas = np.full((80, 2000, 3), 255, np.uint8)
    drawing.write_text(canvas, text, 20, 50, scale, colour)
    rows, columns = np.nonzero((canvas < 255).any(2))
    return position(picture, canvas[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]) is not None


def swatches(picture: NDArray[np.uint8], palette: NDArray[np.uint8], side: int) -> list[int]:
    """The classes of which the picture has a square of their colour and so many pixels, from top to bottom."""
    packed = picture @ np.array([1, 256, 65536])
    tops = {}
    for label, colour in enumerate(palette @ np.array([1, 256, 65536])):
        rows, columns = np.nonzero(packed == colour)
        if len(rows) == side**2 and np.ptp(rows) == np.ptp(columns) == side - 1:
            tops[label] = int(rows.min())
    return sorted(tops, key=tops.__getitem__)


def test_counts_are_those_of_the_labelled_pixels() -> None:
    _, truth, _ = example(90, 120)
    counts = class_counts(truth, CLASSES + 2)
    assert counts.tolist() == [int((truth == label).sum()) for label in range(CLASSES + 2)]
    assert counts.sum() == (truth != 255).sum()
    assert class_counts(truth * 0 + 255, 3).tolist() == [0, 0, 0]


def test_the_legend_names_what_was_predicted_with_its_share_largest_first() -> None:
    image, _, predicted = example(360, 480)
    predicted[:] = 0
    predicted[:90], predicted[90:126], predicted[126, 0] = 3, 4, 1  # 25 %, 10 %, less than 0.1 %
    picture = prediction_picture(image, predicted, NAMES, PALETTE, title="a.jpg")
    assert position(picture, overlay(image, predicted, PALETTE)) is not None
    assert shows(picture, "a.jpg", 0.6, drawing.INK)
    for label, share in ((0, "65.0%"), (3, "25.0%"), (4, "10.0%"), (1, "<0.1%")):
        assert shows(picture, NAMES[label], 0.5, drawing.INK)
        assert shows(picture, share, 0.5, drawing.GREY)
    assert not shows(picture, "tree", 0.5, drawing.INK)
    assert swatches(picture[:, 500:], PALETTE, 14) == [0, 3, 4, 1]


def test_every_class_that_was_predicted_has_its_share_in_the_legend() -> None:
    image, _, predicted = example(360, 480)
    predicted[-1] = 255  # of no class, and of no share
    picture = prediction_picture(image, predicted, NAMES, PALETTE)
    shares = [float((predicted == label).sum() / (predicted != 255).sum()) for label in range(CLASSES)]
    present = [label for label in range(CLASSES) if shares[label]]
    assert sorted(swatches(picture[:, 500:], PALETTE, 14)) == present
    assert sum(shares) == pytest.approx(1)
    assert all(shows(picture, f"{shares[label]:.1%}", 0.5, drawing.GREY) for label in present)


def test_classes_that_do_not_fit_are_counted() -> None:
    palette = np.stack([np.arange(150), np.arange(150) * 7 % 256, np.full(150, 99)], axis=1).astype(np.uint8)
    predicted = np.arange(150, dtype=np.uint8).repeat(360).reshape(300, 180)
    names = [f"class {i}, with a name that is far too long for any legend" for i in range(150)]
    image = np.zeros((300, 180, 3), np.uint8)
    beside = prediction_picture(image, predicted, names, palette)
    below = prediction_picture(image, predicted, names, palette, predicted)
    for legend in (beside[:, 230:], below[420:]):
        shown = swatches(legend, palette, 14)
        assert 8 <= len(shown) < 40
        assert shows(legend, f"and {150 - len(shown)} more", 0.5, drawing.GREY)


def test_with_the_truth_there_are_four_panels_and_the_images_figures() -> None:
    image, truth, predicted = example(300, 400)
    picture = prediction_picture(image, predicted, NAMES, PALETTE, truth, title="a.jpg")
    panels = [
        image,
        overlay(image, truth, PALETTE),
        overlay(image, predicted, PALETTE),
        error_map(image, predicted, truth),
    ]
    places = [position(picture, panel) for panel in panels]
    assert None not in places
    assert places == sorted(places, key=lambda place: place[1] if place else 0)
    counted = truth != 255
    accuracy = (truth == predicted)[counted].mean()
    hits = [((truth == c) & (predicted == c)).sum() for c in range(CLASSES)]
    either = [(((truth == c) | (predicted == c)) & counted).sum() for c in range(CLASSES)]
    miou = np.mean([h / e for h, e in zip(hits, either, strict=True) if e])
    scale = 0.5 * 1.6 * 1.2
    assert shows(picture, f"a.jpg:  pixel accuracy {accuracy:.1%}, mean IoU {miou:.1%}", scale, drawing.INK)
    share = (truth == truth[-1, -1]).sum() / counted.sum(), (predicted == truth[-1, -1]).mean()
    assert shows(picture, f"{share[0]:.1%} / {share[1]:.1%}", 0.5 * 1.6, drawing.GREY)


@pytest.mark.parametrize(
    "size", [(1, 1), (75, 100), (100, 75), (512, 683), (1920, 1080), (2160, 4096), (40, 3000), (3000, 40)]
)
def test_a_picture_of_any_image_fits_a_page(size: tuple[int, int]) -> None:
    image, truth, predicted = example(*size)
    for picture in (
        prediction_picture(image, predicted, NAMES, PALETTE, title="a.jpg"),
        prediction_picture(image, predicted, NAMES, PALETTE, truth, title="a very long name of a file " * 20),
    ):
        assert 300 <= picture.shape[0] <= 1800
        assert 400 <= picture.shape[1] <= 2000
        assert picture.dtype == np.uint8
        frame = np.concatenate([picture[:20].reshape(-1, 3), picture[:, -20:].reshape(-1, 3)])
        assert (frame == 255).all()  # nothing runs over the margins


def test_an_image_without_labels_has_a_picture_that_says_so() -> None:
    image, truth, predicted = example(300, 400)
    picture = prediction_picture(image, predicted, NAMES, PALETTE, np.full_like(truth, 255))
    assert shows(picture, "no labelled pixels", 0.5 * 1.6 * 1.2, drawing.INK)
    assert sum(1 for label in range(CLASSES) if shows(picture, NAMES[label], 0.8, drawing.INK)) == len(
        np.unique(predicted)
    )


def test_a_sheet_has_a_row_for_each_of_at_most_eight_examples() -> None:
    drawn: list[int] = []

    def examples(count: int) -> Iterator[tuple[NDArray[np.uint8], Map, Map]]:
        for i in range(count):
            drawn.append(i)
            yield example(*((285, 380), (380, 285))[i % 2], seed=i)

    sheets = {count: sheet(examples(count), NAMES, PALETTE, title="Run") for count in (1, 2, 3)}
    heights = {count: picture.shape[0] for count, picture in sheets.items()}
    assert heights[3] - heights[2] == heights[2] - heights[1] > 285
    places = []
    for seed in (0, 2):
        image, truth, predicted = example(285, 380, seed=seed)
        places += [position(sheets[3], panel) for panel in (image, error_map(image, predicted, truth))]
    assert None not in places
    (top, _), (same, _), (below, _), (same_below, _) = (place or (0, 0) for place in places)
    assert top == same < below == same_below
    drawn.clear()
    picture = sheet(examples(11), NAMES, PALETTE)
    assert drawn == list(range(8))
    assert picture.shape[0] == heights[1] + 7 * (heights[2] - heights[1])
    assert picture.shape[1] < 2000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": NAMES[:5]}, "as many names as colours, got 5 names and 6 colours"),
        ({"predicted": np.zeros((30, 40), np.uint8)}, r"\[300, 400\], got \[30, 40\]"),
        ({"predicted": np.full((300, 400), 6)}, "from 0 to 5, or 255 for no class, got 6"),
        ({"truth": np.zeros((30, 40), np.uint8)}, r"got \[300, 400\] and \[30, 40\]"),
        ({"truth": np.full((300, 400), 7)}, "labels must be from 0 to 5, or 255 for pixels to ignore, got 7"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    image, _, predicted = example(300, 400)
    arguments = {"predicted": predicted, "names": NAMES, "palette": PALETTE} | change
    with pytest.raises(ValueError, match=message):
        prediction_picture(image, **arguments)


def test_a_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one example, got none"):
        sheet([], NAMES, PALETTE)
