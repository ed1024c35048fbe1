"""Classification heads: the maps of a backbone -> logits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internimage.layers import layer_norm, linear


class PoolHead(nn.Module):
    """Average the last stage's map over the image; no classes. What a backbone without a head ends in.

    Shapes: features [N, H, W, C] -> [N, C].
    """

    feature_channels: int  # channels of the features that `forward` takes
    hidden_size: int  # length of the vector before the classifier
    classifier: nn.Module

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.feature_channels = self.hidden_size = channels
        self.classifier = nn.Identity()

    def check_image_size(self, height: int, width: int) -> None:
        """Every size fits, unless a subclass says otherwise."""

    def merge(self, maps: Sequence[Tensor]) -> Tensor:
        """Four stage maps -> the features that `forward` takes: here the last map."""
        return maps[-1]

    def pool(self, features: Tensor) -> Tensor:
        """Features -> one vector for each image, before the classifier."""
        return features.mean(dim=(1, 2))

    def forward(self, features: Tensor, *, pre_logits: bool = False, metadata: Tensor | None = None) -> Tensor:
        if metadata is not None:
            raise ValueError(f"InternImage: got metadata, but {type(self).__name__} takes none; use head='metadata'")
        pooled = self.pool(features)
        return pooled if pre_logits else self.classifier(pooled)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one; 0 classes leave the pooled features."""
        self.classifier = linear(self.hidden_size, num_classes) if num_classes else nn.Identity()


class ConvHead(PoolHead):
    """Widen with a 1x1 convolution, pool, classify: the head of T, S, B, L and XL.

    Shapes: features [N, H, W, C] -> logits [N, num_classes].
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(channels)
        self.hidden_size = int(1.5 * channels)
        self.conv = nn.Conv2d(channels, self.hidden_size, kernel_size=1, bias=False)
        self.norm = nn.BatchNorm2d(self.hidden_size)
        self.reset_classifier(num_classes)

    def pool(self, features: Tensor) -> Tensor:
        x: Tensor = self.norm(self.conv(features.permute(0, 3, 1, 2)))
        return F.gelu(x).mean(dim=(2, 3))


class ClipHead(PoolHead):
    """Fuse the maps of stages 3 and 4, pool them by attention into an image embedding, classify: the head of H and G.

    Stage 4 is brought to the size of stage 3 by a pixel shuffle, so the height and width of stage 3 must be even.

    Shapes: features [N, H3, W3, 1024] -> logits [N, num_classes].
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(channels)
        self.feature_channels, self.hidden_size = 1024, 768
        self.stage4 = nn.Conv2d(channels, 4 * self.feature_channels, kernel_size=1)
        self.stage3 = nn.Conv2d(channels // 2, self.feature_channels, kernel_size=1)
        self.attention = AttentionPool(self.feature_channels, self.hidden_size, num_heads=16)
        self.embedding_norm = layer_norm(self.hidden_size)
        self.reset_classifier(num_classes)

    def check_image_size(self, height: int, width: int) -> None:
        """
        Raises:
            ValueError: stage 3, a 16th of the image, would have an odd height or width.
        """
        rows, columns = (height + 15) // 16, (width + 15) // 16
        if rows % 2 == columns % 2 == 0:
            return
        below, above = ([max(32, (side + round_up) // 32 * 32) for side in (height, width)] for round_up in (0, 31))
        raise ValueError(
            f"InternImage: this head needs a third stage of even height and width, got an image of {height}x{width} "
            f"pixels, whose third stage is {rows}x{columns}; multiples of 32 fit, nearest are {below[0]}x{below[1]} "
            f"and {above[0]}x{above[1]}"
        )

    def merge(self, maps: Sequence[Tensor]) -> Tensor:
        x3, x4 = (x.permute(0, 3, 1, 2) for x in maps[2:])
        fused: Tensor = F.pixel_shuffle(self.stage4(x4), 2) + self.stage3(x3)
        return fused.permute(0, 2, 3, 1)

    def pool(self, features: Tensor) -> Tensor:
        pooled: Tensor = self.embedding_norm(self.attention(features.flatten(1, 2)))
        return pooled


class AttentionPool(nn.Module):
    """Pool tokens by attention, with the mean of the tokens as the one query.

    Shapes: tokens [N, T, in_channels] -> [N, out_channels].
    """

    def __init__(self, in_channels: int, out_channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_norm = layer_norm(in_channels)
        self.key_norm = layer_norm(in_channels)
        self.value_norm = layer_norm(in_channels)
        self.query = linear(in_channels, in_channels)
        self.key = linear(in_channels, in_channels)
        self.value = linear(in_channels, in_channels)
        self.output_proj = linear(in_channels, out_channels)

    def forward(self, tokens: Tensor) -> Tensor:
        query = self.query(self.query_norm(tokens.mean(dim=1, keepdim=True)))
        key = self.key(self.key_norm(tokens))
        value = self.value(self.value_norm(tokens))
        query, key, value = (t.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for t in (query, key, value))
        pooled = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.output_proj(pooled.transpose(1, 2).flatten(2).squeeze(1))
        return out


class MetadataHead(ClipHead):
    """A `ClipHead` that adds logits from where and when the image was taken (the iNaturalist 2018 model).

    Shapes: features [N, H3, W3, 1024], metadata [N, 7] from `encode_metadata` -> logits [N, num_classes]. Without
    metadata all of it counts as missing.
    """

    def forward(self, features: Tensor, *, pre_logits: bool = False, metadata: Tensor | None = None) -> Tensor:
        logits: Tensor = super().forward(features, pre_logits=pre_logits)
        if pre_logits or self.metadata is None:
            return logits
        if metadata is None:
            metadata = features.new_zeros(features.shape[0], 7)
        from_metadata: Tensor = self.metadata(metadata)
        return logits + from_metadata

    def reset_classifier(self, num_classes: int) -> None:
        """Replace both classifiers; 0 classes leave the pooled features of the image."""
        super().reset_classifier(num_classes)
        self.metadata = MetadataBranch(num_classes) if num_classes else None


class MetadataBranch(nn.Module):
    """Two small residual networks, for time and for place, and a classifier over both.

    Shapes: metadata [N, 4 + 3] -> logits [N, num_classes].
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.time = MetadataEncoder(4, 64)
        self.place = MetadataEncoder(3, 64)
        self.norm = layer_norm(128)
        self.classifier = linear(128, num_classes)

    def forward(self, metadata: Tensor) -> Tensor:
        encoded = torch.cat([self.time(metadata[:, :4]), self.place(metadata[:, 4:])], dim=1)
        logits: Tensor = self.classifier(self.norm(encoded))
        return logits


class MetadataEncoder(nn.Module):
    """A linear layer and one residual pair of them, each with ReLU and LayerNorm.

    Shapes: [N, in_features] -> [N, features].
    """

    def __init__(self, in_features: int, features: int) -> None:
        super().__init__()
        self.proj = linear(in_features, features)
        self.norm = nn.LayerNorm(features)  # the epsilon of these norms is PyTorch's, not that of the backbone
        self.fc1 = linear(features, features)
        self.norm1 = nn.LayerNorm(features)
        self.fc2 = linear(features, features)
        self.norm2 = nn.LayerNorm(features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(F.relu(self.proj(x)))
        hidden = self.norm1(F.relu(self.fc1(x)))
        out: Tensor = x + self.norm2(F.relu(self.fc2(hidden)))
        return out


def encode_metadata(month: Tensor, latitude_deg: Tensor, longitude_deg: Tensor) -> Tensor:
    """When and where images were taken, as `MetadataHead` takes it.

    Args:
        month: [N], 1 to 12; NaN where unknown.
        latitude_deg: [N], degrees north; NaN where unknown.
        longitude_deg: [N], degrees east; NaN where unknown.

    Returns:
        [N, 7]: sine and cosine of the month's angle, two zeros (the hour, which the released model ignores), and the
        unit vector of the place. A missing value gives zeros, and so does a coordinate of exactly 0, as in training.
    """
    year_angle = month * (2 * math.pi / 12)
    time = torch.stack([year_angle.sin(), year_angle.cos()], dim=1)
    latitude, longitude = latitude_deg.deg2rad(), longitude_deg.deg2rad()
    place = torch.stack([latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()], dim=1)
    known = latitude_deg.abs() * longitude_deg.abs() > 0  # false for NaN too
    place = torch.where(known[:, None], place, 0.0)
    return torch.cat([time.nan_to_num(nan=0.0), torch.zeros_like(time), place], dim=1)
