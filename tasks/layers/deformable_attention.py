"""Multi-scale deformable attention: queries that look at a few learned places of several maps (arXiv 2010.04159)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from internimage.ops import multi_scale_deformable_attention
from internimage.renames import Row, prefixed
from internimage.tasks.layers.attention import FeedForward

Sizes = Sequence[tuple[int, int]]  # height and width of each level


class DeformableAttention(nn.Module):
    """The layer around `multi_scale_deformable_attention`, which predicts where to look from the query.

    Args:
        channels: C, a multiple of `heads`.
        heads: each has its own places.
        levels: maps that are looked at.
        points: places in each of them.
    """

    renames: ClassVar[tuple[Row, ...]] = (
        ("offsets.{p}", "sampling_offsets.{p}"),
        ("weights.{p}", "attention_weights.{p}"),
        ("value_proj.{p}", "value_proj.{p}"),
        ("output_proj.{p}", "output_proj.{p}"),
    )

    def __init__(self, channels: int, heads: int = 8, *, levels: int = 4, points: int = 4) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"DeformableAttention: heads must divide channels, got {channels} channels, {heads} heads")
        self.heads = heads
        self.levels = levels
        self.points = points
        self.offsets = nn.Linear(channels, heads * levels * points * 2)
        self.weights = nn.Linear(channels, heads * levels * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """At first each head looks in a direction of its own, with equal weights: 1, 2, ... `points` pixels away."""
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.points + 1).view(-1, 1) * direction.view(self.heads, 1, 1, 2)
        with torch.no_grad():
            self.offsets.bias.copy_(steps.expand(-1, self.levels, -1, -1).flatten())
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, query: Tensor, reference: Tensor, value: Tensor, spatial_shapes: Sizes, padding: Tensor | None = None
    ) -> Tensor:
        """Look around the reference points, or inside the reference boxes.

        Args:
            query: [N, Q, C].
            reference: broadcasts to [N, Q, levels, 2 or 4]: points (x, y) or boxes (centre x, y, width, height), from
                0 to 1 across the maps. An offset of 1 is a pixel from a point, or half a side by `points` from the
                centre of a box.
            value: [N, S, C], the levels' maps, flattened and one after the other.
            spatial_shapes: height and width of each level.
            padding: [N, S] of bool, True where `value` is padding, which is taken for zeros.

        Returns:
            [N, Q, C].
        """
        value = torch.unflatten(self.value_proj(value), -1, (self.heads, -1))
        if padding is not None:
            value = value.masked_fill(padding.unsqueeze(-1).unsqueeze(-1), 0.0)
        shape = (self.heads, self.levels, self.points)
        weights = self.weights(query).unflatten(-1, (self.heads, -1)).softmax(-1).unflatten(-1, shape[1:])
        # Half types can't tell the pixels of a large map apart.
        offsets = self.offsets(query).unflatten(-1, (*shape, 2)).to(reference.dtype)
        reference = reference.unsqueeze(-2).unsqueeze(-4)
        if reference.shape[-1] == 2:
            locations = reference + offsets / _sides(spatial_shapes, offsets).unsqueeze(-2)
        else:
            locations = reference[..., :2] + offsets / self.points * reference[..., 2:] * 0.5
        out: Tensor = self.output_proj(multi_scale_deformable_attention(value, spatial_shapes, locations, weights))
        return out


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention of several maps, then an MLP, each followed by the sum with its input and a norm.

    Shapes: [N, S, channels] -> the same.

    Args:
        channels: of the maps.
        heads: of the attention.
        hidden_channels: of the MLP.
        levels: maps.
        points: places in each map that a head looks at.
    """

    renames: ClassVar[tuple[Row, ...]] = (
        *prefixed(DeformableAttention.renames, "attention.", "attentions.0."),
        ("attention_norm.{p}", "norms.0.{p}"),
        *prefixed(FeedForward.renames, "ffn.", "ffns.0."),
        ("ffn_norm.{p}", "norms.1.{p}"),
    )

    def __init__(self, channels: int, heads: int, hidden_channels: int, *, levels: int, points: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(channels, heads, levels=levels, points=points)
        self.attention_norm = nn.LayerNorm(channels)
        self.ffn = FeedForward(channels, hidden_channels)
        self.ffn_norm = nn.LayerNorm(channels)

    def forward(
        self, x: Tensor, position: Tensor, reference: Tensor, spatial_shapes: Sizes, padding: Tensor | None = None
    ) -> Tensor:
        """See `DeformableAttention`; `position` is added to the queries."""
        x = self.attention_norm(x + self.attention(x + position, reference, x, spatial_shapes, padding))
        out: Tensor = self.ffn_norm(x + self.ffn(x))
        return out


def pixel_centres(spatial_shapes: Sizes, like: Tensor) -> Tensor:
    """[1, S, 1, 2]: (x, y) of every pixel of every level, from 0 to 1 across its map; float32 at least."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    centres = []
    for size in spatial_shapes:
        height, width = size
        y, x = ((torch.arange(side, device=like.device, dtype=dtype) + 0.5) / side for side in size)
        centres.append(torch.stack((x.expand(height, -1), y.unsqueeze(1).expand(-1, width)), dim=-1).flatten(0, 1))
    return torch.cat(centres).view(1, -1, 1, 2)


def _sides(spatial_shapes: Sizes, like: Tensor) -> Tensor:
    """[levels, 2]: width and height of each level."""
    return torch.stack([like.new_full((), side) for size in spatial_shapes for side in reversed(size)]).view(-1, 2)
