"""The sizes of a deformable convolution, in the order in which its operators take them."""

from typing import NamedTuple

IntPair = int | tuple[int, int]


class Geometry(NamedTuple):
    """Every argument of DCNv3 that is not a tensor; pairs are (height, width)."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    offset_scale: float
    remove_center: bool
    softmax: bool

    @property
    def taps(self) -> int:
        """Sampling points of one group at one place (K)."""
        return self.kernel_size[0] * self.kernel_size[1] - int(self.remove_center)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the output for an input of `height` x `width` pixels, as for any convolution."""
        rows, columns = (
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, padding, dilation, kernel, stride in zip(
                (height, width), self.padding, self.dilation, self.kernel_size, self.stride, strict=True
            )
        )
        return rows, columns
