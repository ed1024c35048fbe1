"""What a segmentor sees of a picture in evaluation: resized as in the official tests, at one or several scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from internimage.tasks.images import Image, normalise
from internimage.tasks.resizing import Size, fit_size, resize_bilinear


@dataclass(frozen=True)
class Views:
    """How pictures become the images that a segmentor sees.

    Attributes:
        bounds: long and short side that a picture is fitted to, pixels; None: those that it has.
        factors: by which the fitted size is multiplied, one for each view.
        divisor: both sides are stretched to a multiple of it.

    Raises:
        ValueError: a number out of its range.
    """

    bounds: Size | None = None
    factors: Sequence[float] = (1.0,)
    divisor: int = 32

    def __post_init__(self) -> None:
        if self.bounds is not None and (len(self.bounds) != 2 or min(self.bounds) < 1):
            raise ValueError(f"Views: bounds must be two sides of at least 1 pixel, got {self.bounds}")
        if not self.factors or min(self.factors) <= 0 or self.divisor < 1:
            raise ValueError(
                f"Views: factors must be above 0 and divisor at least 1, got {self.factors} and {self.divisor}"
            )

    def __call__(self, image: Image) -> list[Tensor]:
        """A picture, uint8 [H, W, 3] -> its views, float32 [3, h, w], normalised."""
        return [normalise(self._resized(image, factor)) for factor in self.factors]

    def _resized(self, image: Image, factor: float) -> Image:
        size = fit_size(image.shape[:2], self.bounds, factor)
        # Twice, as in the official tests: first with the picture's shape, then stretched.
        height, width = (-(-side // self.divisor) * self.divisor for side in size)
        return resize_bilinear(resize_bilinear(image, size), (height, width))
