"""Scores become probabilities: in windows that cover the image, from mirror images, at several scales."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from internimage.tasks.segmentation.inference import Sliding, class_probabilities, predict_classes


def pointwise(image: Tensor) -> Tensor:
    """A segmentor that looks at each pixel alone, so that windows and mirrors change nothing."""
    return torch.cat((image, image.square()), dim=1)


sides = st.integers(1, 20)


@given(size=st.tuples(sides, sides), window=st.tuples(sides, sides), data=st.data())
@settings(max_examples=60, deadline=None)
def test_windows_cover_the_image_and_change_no_pixel(size, window, data):
    stride = tuple(data.draw(st.integers(1, side)) for side in window)
    shapes: Counter[tuple[int, ...]] = Counter()

    def segmentor(image: Tensor) -> Tensor:
        shapes[tuple(image.shape[2:])] += 1
        return pointwise(image)

    image = torch.randn(2, 3, *size, dtype=torch.float64)
    got = Sliding(segmentor, window, stride)(image)
    torch.testing.assert_close(got, pointwise(image))
    assert set(shapes) == {tuple(min(pair) for pair in zip(size, window, strict=True))}
    counts = [
        max(length - side + step - 1, 0) // step + 1  # of the official code
        for length, side, step in zip(size, window, stride, strict=True)
    ]
    assert shapes.total() == counts[0] * counts[1]


@pytest.mark.parametrize("stride", [(0, 4), (4, 9)])
def test_strides_that_leave_gaps_are_refused(stride):
    with pytest.raises(ValueError, match=r"must be from 1 to the size of the window, got stride \(., .\)"):
        Sliding(pointwise, (8, 8), stride)


def test_overlapping_windows_are_averaged():
    image = torch.zeros(1, 1, 1, 6)
    numbered = iter((0.0, 1.0))
    got = Sliding(lambda x: x + next(numbered), (1, 4), (1, 2))(image)
    assert got.flatten().tolist() == [0, 0, 0.5, 0.5, 1, 1]


def test_probabilities_add_up_to_one_and_keep_the_place():
    image = torch.randn(2, 3, 10, 12)
    got = class_probabilities(pointwise, image, (10, 12), mirrored=True)
    torch.testing.assert_close(got, pointwise(image).softmax(1))
    assert class_probabilities(pointwise, image, (5, 7)).shape == (2, 6, 5, 7)
    torch.testing.assert_close(class_probabilities(pointwise, image, (5, 7)).sum(1), torch.ones(2, 5, 7))


def test_views_count_alike():
    views = [torch.randn(1, 3, 8, 8), torch.randn(1, 3, 12, 12)]
    apart = [class_probabilities(pointwise, view, (8, 8), mirrored=True) for view in views]
    got = class_probabilities(pointwise, views, (8, 8), mirrored=True)
    torch.testing.assert_close(got, torch.stack(apart).mean(0))
    assert torch.equal(predict_classes(pointwise, views, (8, 8), mirrored=True), got.argmax(1))
    with pytest.raises(ValueError, match="at least one view"):
        class_probabilities(pointwise, [], (8, 8))
