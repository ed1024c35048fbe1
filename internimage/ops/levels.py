"""The sizes of the maps that multi-scale deformable attention samples, in the form in which its operators take them."""

from typing import NamedTuple


class Levels(NamedTuple):
    """Every argument of the attention that is not a tensor. Sizes may be symbols of the compiler."""

    spatial_shapes: tuple[int, ...]  # height and width of each level in turn

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each level."""
        return list(zip(self.spatial_shapes[::2], self.spatial_shapes[1::2], strict=True))

    @property
    def pixels(self) -> int:
        """Of all levels together."""
        return sum(height * width for height, width in self.sizes)
