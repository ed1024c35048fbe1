"""The layers of transformers: attention between two sequences, the MLP after it, encodings of places."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internimage.renames import Row


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention with several heads (arXiv 1706.03762).

    The parameters are those of `nn.MultiheadAttention`; but batches come first, and the heads share one mask.

    Shapes: query [N, Q, C], key and value [N, K, C] -> [N, Q, C].

    Args:
        channels: C, a multiple of `heads`.
        heads: each attends with its share of the channels.
    """

    renames: ClassVar[tuple[Row, ...]] = (
        ("in_proj_{p}", "attn.in_proj_{p}"),
        ("out_proj.{p}", "attn.out_proj.{p}"),
    )

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"MultiheadAttention: heads must divide channels, got {channels} channels, {heads} heads")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: [N, Q, C].
            key: [N, K, C].
            value: [N, K, C].
            mask: broadcasts to [N, Q, K]; True where a query may look. No query may have nowhere to look.
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            torch.unflatten(F.linear(x, weight, bias), -1, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        mask = None if mask is None else mask.unsqueeze(-3)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(-2))
        return out


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between them: [..., channels] -> the same."""

    renames: ClassVar[tuple[Row, ...]] = (
        ("fc1.{p}", "layers.0.0.{p}"),
        ("fc2.{p}", "layers.1.{p}"),
    )

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.fc2 = nn.Linear(hidden_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.relu(self.fc1(x)))
        return out


def sine_position_encoding(valid: Tensor, channels: int, dtype: torch.dtype, *, temperature: float = 10000.0) -> Tensor:
    """Sines and cosines of the place in the valid part of an image, y before x (arXiv 2005.12872, appendix A.4).

    Args:
        valid: [N, H, W] of bool, False where the image is padding.
        channels: of the result, a multiple of 4.
        dtype: of the result. It is computed in float32 at least.
        temperature: ratio of the longest wave to the shortest.

    Returns:
        [N, channels, H, W].
    """
    precise = torch.promote_types(dtype, torch.float32)
    encodings = []
    for axis in (1, 2):
        place = valid.cumsum(axis, dtype=precise)
        place = place / (place.narrow(axis, place.shape[axis] - 1, 1) + 1e-6)
        encodings.append(sine_encoding(place, channels // 2, temperature))
    return torch.cat(encodings, dim=-1).permute(0, 3, 1, 2).to(dtype)


def sine_encoding(place: Tensor, channels: int, temperature: float = 10000.0) -> Tensor:
    """Sines and cosines of numbers [...] from 0 to 1, in turns: [..., channels], an even number of channels."""
    exponent = torch.arange(0, channels, 2, device=place.device, dtype=place.dtype) / channels
    angle = (place * (2 * math.pi)).unsqueeze(-1) / temperature**exponent
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)
