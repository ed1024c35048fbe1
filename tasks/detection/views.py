"""What a detector sees of a picture: resized as in the official tests, at one or several scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from internimage.tasks.images import Image, normalise
from internimage.tasks.resizing import Size, fit_size, resize_bilinear


@dataclass(frozen=True)
class Views:
    """How pictures become the images that a detector sees.

    Attributes:
        bounds: long and short side that a picture is fitted to, pixels; None: those that it has.
        factors: by which the bounds are multiplied, one for each view.

    Raises:
        ValueError: a number out of its range.
    """

    bounds: Size | None = (1333, 800)
    factors: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        if self.bounds is not None and (len(self.bounds) != 2 or min(self.bounds) < 1):
            raise ValueError(f"Views: bounds must be two sides of at least 1 pixel, got {self.bounds}")
        if not self.factors or not all(0 < factor < math.inf for factor in self.factors):
            raise ValueError(f"Views: expected finite factors above 0, at least one, got {self.factors}")

    def __call__(self, image: Image) -> list[Tensor]:
        """A picture, uint8 [H, W, 3] -> its views, float32 [3, h, w], normalised."""
        sizes = [fit_size(image.shape[:2], self.bounds, factor) for factor in self.factors]
        return [normalise(resize_bilinear(image, size)) for size in sizes]
