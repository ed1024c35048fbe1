"""From a segmentor to the classes of an image: whole or in windows, mirrored, at several scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from internimage.tasks.layers.conv_norm import resize

Scorer = Callable[[Tensor], Tensor]  # image [N, C, H, W] -> scores [N, classes, H, W], such as a segmentor
Size = tuple[int, int]  # height and width


@dataclass(frozen=True)
class Sliding:
    """Scores from overlapping windows, averaged where they overlap.

    Calls like a segmentor: image [N, C, H, W] -> scores [N, classes, H, W].

    Attributes:
        segmentor: scores of a window.
        window: height and width; windows are smaller only where the image is.
        stride: between windows, down and across. The last ones are moved back to end where the image ends.

    Raises:
        ValueError: a window or stride of less than a pixel, or a stride that leaves gaps between windows.
    """

    segmentor: Scorer
    window: Size
    stride: Size

    def __post_init__(self) -> None:
        if not all(0 < step <= side for step, side in zip(self.stride, self.window, strict=True)):
            raise ValueError(
                f"Sliding: the stride must be from 1 to the size of the window, got stride {self.stride} and window "
                f"{self.window}"
            )

    def __call__(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        hits = image.new_zeros(height, width)
        total = image.new_zeros(0)
        for rows in _spans(height, self.window[0], self.stride[0]):
            for columns in _spans(width, self.window[1], self.stride[1]):
                scores = self.segmentor(image[..., rows, columns])
                if not total.numel():
                    total = scores.new_zeros(*scores.shape[:2], height, width)
                total[..., rows, columns] += scores
                hits[rows, columns] += 1
        return total / hits


def class_probabilities(
    segmentor: Scorer, views: Tensor | Sequence[Tensor], size: Size, *, mirrored: bool = False
) -> Tensor:
    """Probabilities of the classes, averaged over views of the same images.

    As in the official code each view's scores pass a softmax, also those of Mask2Former, which are no logits.

    Args:
        segmentor: a `Segmentor`, or a `Sliding` around one.
        views: images [N, C, h, w], normalised; for several scales a sequence of them.
        size: height and width of the result: those of the original images.
        mirrored: look at each view's mirror image as well.

    Returns:
        [N, classes, height, width].
    """
    views = [views] if isinstance(views, Tensor) else views
    if not views:
        raise ValueError("class_probabilities: expected at least one view of the images, got none")
    count = len(views) * (2 if mirrored else 1)
    return reduce(torch.add, _probabilities(segmentor, views, size, mirrored)) / count


def predict_classes(
    segmentor: Scorer, views: Tensor | Sequence[Tensor], size: Size, *, mirrored: bool = False
) -> Tensor:
    """The most probable class of each pixel, [N, height, width]; see `class_probabilities`."""
    with torch.inference_mode():
        return class_probabilities(segmentor, views, size, mirrored=mirrored).argmax(dim=1)


def _probabilities(segmentor: Scorer, views: Sequence[Tensor], size: Size, mirrored: bool) -> Iterator[Tensor]:
    for view in views:
        yield resize(segmentor(view), size).softmax(dim=1)
        if mirrored:
            yield resize(segmentor(view.flip(-1)), size).softmax(dim=1).flip(-1)


def _spans(length: int, window: int, stride: int) -> Iterator[slice]:
    """The windows along one side."""
    for start in range(0, max(length - window, 0) + stride, stride):
        end = min(start + window, length)
        yield slice(max(end - window, 0), end)
