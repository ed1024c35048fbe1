"""Hypothesis strategies that several test files share."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from internimage.ops.geometry import Geometry
from internimage.ops.reference import sampling_locations


@dataclass(frozen=True)
class Case:
    """Arguments of one DCNv3 call."""

    input: Tensor
    offset: Tensor
    mask: Tensor
    geometry: Geometry

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.input, self.offset, self.mask

    @property
    def options(self) -> dict[str, Any]:
        return self.geometry._asdict()

    def with_tensors(self, *tensors: Tensor) -> "Case":
        return replace(self, **dict(zip(("input", "offset", "mask"), tensors, strict=True)))


def make_case(
    seed: int,
    *,
    n: int = 2,
    size: tuple[int, int] = (6, 7),
    groups: int = 2,
    group_channels: int = 4,
    spread: float = 1.0,
    dtype: torch.dtype = torch.float32,
    kernel_size: tuple[int, int] = (3, 3),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    offset_scale: float = 1.0,
    remove_center: bool = False,
    softmax: bool = False,
) -> Case:
    """Random tensors for a geometry; offsets have standard deviation `spread`, in pixels before the scale."""
    geometry = Geometry(kernel_size, stride, padding, dilation, groups, offset_scale, remove_center, softmax)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = geometry.output_size(*size)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return Case(
        input=draw(n, *size, groups * group_channels),
        offset=draw(n, rows, columns, groups * geometry.taps * 2) * spread,
        mask=draw(n, rows, columns, groups * geometry.taps),
        geometry=geometry,
    )


def relaid(case: Case, layout: str) -> Case:
    """The same values elsewhere in memory."""
    if layout == "channels first":
        return case.with_tensors(
            *(tensor.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1) for tensor in case.tensors)
        )
    if layout == "one wider tensor":
        joined = torch.cat([case.offset, case.mask, case.mask], dim=-1)
        points = case.mask.shape[-1]
        return case.with_tensors(case.input, joined[..., : 2 * points], joined[..., 2 * points : 3 * points])
    return case


@st.composite
def dcnv3_cases(draw: st.DrawFn, *, dtype: torch.dtype = torch.float32) -> Case:
    """Every option of the operator, sizes from 1 up, offsets from none to far outside the image."""
    pair = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))  # noqa: E731
    kernel, dilation = draw(pair(1, 4)), draw(pair(1, 2))
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    padding = draw(pair(0, 3))
    least = [max(1, e - 2 * p) for e, p in zip(extent, padding, strict=True)]
    remove_center = kernel[0] % 2 == 1 and kernel[1] % 2 == 1 and kernel != (1, 1) and draw(st.booleans())
    case = make_case(
        draw(st.integers(0, 2**31)),
        n=draw(st.integers(1, 3)),
        size=(draw(st.integers(least[0], least[0] + 6)), draw(st.integers(least[1], least[1] + 6))),
        groups=draw(st.integers(1, 5)),
        group_channels=draw(st.sampled_from([1, 2, 3, 5, 8, 11, 16, 17, 24, 32, 64, 71])),
        spread=draw(st.sampled_from([0.0, 0.3, 2.0, 30.0, 1e6])),
        dtype=dtype,
        kernel_size=kernel,
        stride=draw(pair(1, 3)),
        padding=padding,
        dilation=dilation,
        offset_scale=draw(st.sampled_from([0.5, 1.0, 2.0])),
        remove_center=remove_center,
        softmax=draw(st.booleans()),
    )
    return relaid(case, draw(st.sampled_from(["contiguous", "channels first", "one wider tensor"])))


def off_the_grid(case: Case, margin: float = 0.05) -> Case:
    """The case with every sampling coordinate at least `margin` away from the integers, where bilinear has a kink."""
    taps = (*case.offset.shape[:3], case.geometry.groups, case.geometry.taps)
    y, x = sampling_locations(case.offset, case.geometry)
    moved = []
    for coordinate in (x, y):
        fraction = coordinate - coordinate.floor()
        moved.append((fraction.clamp(margin, 1 - margin) - fraction) / case.geometry.offset_scale)
    shift = torch.stack(moved, dim=-1).view(*taps, 2).flatten(-3)
    return replace(case, offset=case.offset + shift)
