"""A convolution with its norm and activation, and what else the heads do to maps [N, C, H, W]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNorm(nn.Module):
    """Convolution, norm, and ReLU where wanted.

    Shapes: [N, in_channels, H, W] -> [N, out_channels, ceil(H / stride), ceil(W / stride)].

    Args:
        in_channels: of the map.
        out_channels: of the result.
        kernel_size: odd.
        stride: of the convolution.
        norm: what normalises `out_channels` channels: `nn.BatchNorm2d(out_channels)`, or a GroupNorm.
        relu: end with a ReLU.
        bias: add one to the convolution, which the norm makes superfluous; some official files have one all the same.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        norm: nn.Module | None = None,
        relu: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=bias)
        self.norm = nn.BatchNorm2d(out_channels) if norm is None else norm
        self.relu = relu
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return F.relu(x) if self.relu else x


def flatten(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, H * W, C]."""
    return x.flatten(2).mT


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bring a map [N, C, H, W] to `size` (height, width) bilinearly, its corners being corners of pixels."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def average_over_grid(x: Tensor, size: int) -> Tensor:
    """Adaptive average pooling: [N, C, H, W] -> [N, C, size, size].

    Weighted sums over rows, then over columns, and not `F.adaptive_avg_pool2d` or products of matrices, which the
    compiler can translate for a fixed height and width only.
    """
    rows, columns = (_shares(length, size, x) for length in x.shape[2:])
    x = torch.stack([(x * share.unsqueeze(1)).sum(dim=2) for share in rows], dim=2)
    return torch.stack([(x * share).sum(dim=3) for share in columns], dim=3)


def _shares(length: int, bins: int, like: Tensor) -> Tensor:
    """[bins, length]: the share of each position in the average of each bin; bin i covers floor to ceiling."""
    position = torch.arange(length, device=like.device)
    first = torch.arange(bins, device=like.device).unsqueeze(1) * length
    inside = (position >= first // bins) & (position < (first + length + bins - 1) // bins)
    shares = inside.to(like.dtype)
    return shares / shares.sum(dim=1, keepdim=True)
