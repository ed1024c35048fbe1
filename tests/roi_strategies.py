"""Hypothesis strategies for RoIAlign."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from internimage.ops import roi_align
from internimage.ops.roi_align_reference import RoIGrid


@dataclass(frozen=True)
class RoICase:
    """Arguments of one call."""

    input: Tensor
    rois: Tensor
    grid: RoIGrid

    @property
    def options(self) -> dict[str, Any]:
        return self.grid._asdict()

    def run(self, input: Tensor | None = None) -> Tensor:
        """By the backend in force; of another input if one is given."""
        return roi_align(self.input if input is None else input, self.rois, **self.options)

    def to(self, dtype: torch.dtype) -> "RoICase":
        """The operator's own form: RoIs are never of a half type."""
        real = torch.promote_types(dtype, torch.float32)
        return replace(self, input=self.input.to(dtype), rois=self.rois.to(real))


def make_roi_case(
    seed: int,
    *,
    n: int = 2,
    channels: int = 5,
    size: tuple[int, int] = (9, 12),
    rois: int = 6,
    spread: float = 0.5,
    output_size: tuple[int, int] = (3, 4),
    spatial_scale: float = 0.25,
    sampling_ratio: int = 0,
    aligned: bool = True,
    dtype: torch.dtype = torch.float32,
) -> RoICase:
    """Random RoIs around the map's middle, with a deviation of `spread` times its size; some are turned round.

    Indices run from -1, which is no image, to `n` - 1.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    extent = torch.tensor([size[1], size[0]], dtype=torch.float64) / spatial_scale
    corners = draw(rois, 2, 2) * spread * extent + extent / 2
    if rois > 1:
        corners[1:] = corners[1:].sort(dim=1).values
    index = torch.randint(-1, n, (rois, 1), generator=generator)
    case = RoICase(
        input=draw(n, channels, *size),
        rois=torch.cat((index, corners.flatten(1)), dim=1),
        grid=RoIGrid(output_size, spatial_scale, sampling_ratio, aligned),
    )
    return case.to(dtype)


@st.composite
def roi_cases(draw: st.DrawFn, *, dtype: torch.dtype = torch.float32) -> RoICase:
    """Sizes from 1 up, RoIs from within a pixel to many times the map."""
    size = st.integers(1, 13)
    return make_roi_case(
        draw(st.integers(0, 2**31)),
        n=draw(st.integers(1, 3)),
        channels=draw(st.sampled_from([1, 2, 3, 5, 8, 16, 17, 32, 33, 40])),
        size=(draw(size), draw(size)),
        rois=draw(st.integers(0, 7)),
        spread=draw(st.sampled_from([0.0, 0.02, 0.3, 1.0, 5.0])),
        output_size=(draw(st.integers(1, 9)), draw(st.integers(1, 9))),
        spatial_scale=draw(st.sampled_from([1.0, 0.25, 0.3])),
        sampling_ratio=draw(st.integers(0, 3)),
        aligned=draw(st.booleans()),
        dtype=dtype,
    )
