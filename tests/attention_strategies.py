"""Hypothesis strategies for multi-scale deformable attention."""

from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor

Shapes = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class AttentionCase:
    """Arguments of one call."""

    value: Tensor
    shapes: Shapes
    locations: Tensor
    weights: Tensor

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.value, self.locations, self.weights

    @property
    def arguments(self) -> tuple[Tensor, Shapes, Tensor, Tensor]:
        return self.value, self.shapes, self.locations, self.weights

    @property
    def flat_shapes(self) -> list[int]:
        return [size for shape in self.shapes for size in shape]

    def with_tensors(self, *tensors: Tensor) -> "AttentionCase":
        return replace(self, **dict(zip(("value", "locations", "weights"), tensors, strict=True)))

    def to(self, dtype: torch.dtype) -> "AttentionCase":
        """The operator's own form: locations are never of a half type."""
        real = torch.promote_types(dtype, torch.float32)
        return self.with_tensors(self.value.to(dtype), self.locations.to(real), self.weights.to(dtype))


def make_attention_case(
    seed: int,
    *,
    n: int = 2,
    shapes: Shapes = ((5, 6), (3, 2), (1, 3)),
    heads: int = 2,
    head_channels: int = 4,
    queries: int = 7,
    points: int = 4,
    spread: float = 0.6,
    dtype: torch.dtype = torch.float32,
) -> AttentionCase:
    """Random tensors; locations have standard deviation `spread` around the middle of their level."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    samples = (n, queries, heads, len(shapes), points)
    case = AttentionCase(
        value=draw(n, sum(height * width for height, width in shapes), heads, head_channels),
        shapes=shapes,
        locations=draw(*samples, 2) * spread + 0.5,
        weights=draw(*samples),
    )
    return case.to(dtype)


@st.composite
def attention_cases(draw: st.DrawFn, *, dtype: torch.dtype = torch.float32) -> AttentionCase:
    """Sizes from 1 up, locations from the middle of their level to far outside."""
    size = st.integers(1, 7)
    return make_attention_case(
        draw(st.integers(0, 2**31)),
        n=draw(st.integers(1, 3)),
        shapes=tuple(draw(st.lists(st.tuples(size, size), min_size=1, max_size=4))),
        heads=draw(st.integers(1, 5)),
        head_channels=draw(st.sampled_from([1, 2, 3, 5, 8, 11, 16, 17, 24, 32, 64, 71])),
        queries=draw(st.integers(1, 9)),
        points=draw(st.integers(1, 5)),
        spread=draw(st.sampled_from([0.0, 0.1, 0.6, 5.0, 1e6])),
        dtype=dtype,
    )


def off_the_pixels(case: AttentionCase, margin: float = 0.05) -> AttentionCase:
    """The case with every coordinate at least `margin` pixels away from the centres, where bilinear has a kink."""
    scale = torch.tensor(case.shapes, dtype=case.locations.dtype).flip(-1).unsqueeze(1)  # [levels, 1, 2]: x before y
    pixels = case.locations * scale - 0.5
    fraction = pixels - pixels.floor()
    moved = pixels.floor() + fraction.clamp(margin, 1 - margin)
    return replace(case, locations=(moved + 0.5) / scale)
