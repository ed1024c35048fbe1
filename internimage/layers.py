"""The layers that InternImage is built of. Feature maps are [N, H, W, C] throughout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internimage.ops import dcnv3

NORM_EPS = 1e-6  # of the released weights


def layer_norm(channels: int) -> nn.LayerNorm:
    """A LayerNorm with the epsilon of the released weights."""
    return nn.LayerNorm(channels, eps=NORM_EPS)


def linear(in_features: int, out_features: int) -> nn.Linear:
    """A Linear layer initialised as in the paper's code: truncated normal weight, zero bias."""
    layer = nn.Linear(in_features, out_features)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def convolve(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a convolution to an [N, H, W, C] map through views, which the memory format channels_last spares a copy."""
    out: Tensor = convolution(x.permute(0, 3, 1, 2))
    return out.permute(0, 2, 3, 1)


class DropPath(nn.Module):
    """Stochastic depth: in training, zero the whole branch of a sample at random (arXiv 1603.09382).

    What is kept is divided by the probability of keeping it, so that the expectation stays.

    Raises:
        ValueError: the rate is not in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"DropPath: the rate must be at least 0 and below 1, got {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        kept = torch.rand(x.shape[0], device=x.device) < keep
        return x * (kept.to(x.dtype) / keep).view(-1, *(1 for _ in x.shape[1:]))

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


class LayerScale(nn.Module):
    """A learned factor for each channel (arXiv 2103.17239)."""

    def __init__(self, channels: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.fc1 = linear(channels, hidden_channels)
        self.fc2 = linear(hidden_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class DCNv3(nn.Module):
    """The layer around the operator `dcnv3`, which predicts where to sample (InternImage, section 3.1).

    The value is a projection of the input; offsets and masks come from a depthwise convolution of the input. At
    initialisation all offsets are 0 and all masks uniform.

    Shapes: [N, H, W, C] -> the same.

    Args:
        channels: C, a multiple of `groups`.
        groups: each has its own sampling points.
        dw_kernel_size: of the depthwise convolution; odd.
        offset_scale: multiplies the kernel's grid and the offsets.
        center_feature_scale: mix the output with the value, by a learned share for each group and place.
        remove_center: leave out the centre tap of the kernel.
    """

    KERNEL_SIZE = 3

    def __init__(
        self,
        channels: int,
        groups: int,
        *,
        dw_kernel_size: int = 3,
        offset_scale: float = 1.0,
        center_feature_scale: bool = False,
        remove_center: bool = False,
    ) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(f"DCNv3: groups must divide channels, got {channels} channels and {groups} groups")
        if dw_kernel_size % 2 == 0:
            raise ValueError(f"DCNv3: dw_kernel_size must be odd to keep the size of the map, got {dw_kernel_size}")
        self.groups = groups
        self.offset_scale = offset_scale
        self.remove_center = remove_center
        points = groups * (self.KERNEL_SIZE**2 - remove_center)
        self.input_proj = nn.Linear(channels, channels)
        self.depthwise = nn.Conv2d(channels, channels, dw_kernel_size, padding=dw_kernel_size // 2, groups=channels)
        self.norm = layer_norm(channels)
        self.offset = nn.Linear(channels, 2 * points)
        self.mask = nn.Linear(channels, points)
        self.center_scale = nn.Linear(channels, groups) if center_feature_scale else None
        self.output_proj = nn.Linear(channels, channels)
        for projection in (self.input_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        for prediction in (self.offset, self.mask, self.center_scale):
            if prediction is not None:
                nn.init.zeros_(prediction.weight)
                nn.init.zeros_(prediction.bias)

    def forward(self, x: Tensor) -> Tensor:
        value = self.input_proj(x)
        query = F.gelu(self.norm(convolve(self.depthwise, x)))
        sampled = dcnv3(
            value,
            self.offset(query),
            self.mask(query),
            kernel_size=self.KERNEL_SIZE,
            padding=self.KERNEL_SIZE // 2,
            groups=self.groups,
            offset_scale=self.offset_scale,
            remove_center=self.remove_center,
            softmax=True,
        )
        if self.center_scale is not None:
            share = self.center_scale(query).sigmoid().unsqueeze(-1)
            grouped, unsampled = (t.unflatten(-1, (self.groups, -1)) for t in (sampled, value))
            sampled = torch.lerp(grouped, unsampled, share).flatten(-2)
        out: Tensor = self.output_proj(sampled)
        return out
