"""The pixel decoder of Mask2Former: deformable self-attention over three maps, and a fine map of pixel embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from internimage.renames import Row, prefixed
from internimage.tasks.layers.attention import sine_position_encoding
from internimage.tasks.layers.conv_norm import ConvNorm, flatten, resize
from internimage.tasks.layers.deformable_attention import DeformableEncoderLayer, pixel_centres

GROUPS = 32  # of every GroupNorm


class PixelDecoder(nn.Module):
    """Backbone's maps -> the maps that Mask2Former's queries look at (arXiv 2112.01527, section 3.2.1).

    Shapes: maps [N, C_i, H_i, W_i], finest first -> pixel embeddings [N, channels, H_0, W_0] and the other maps
    [N, channels, H_i, W_i], coarsest first.

    Args:
        in_channels: C_i.
        channels: of all results; a multiple of 32.
        heads: of the attention.
        hidden_channels: of the MLPs.
        layers: of the encoder.
        points: that a head looks at in each map.
    """

    renames: ClassVar[tuple[Row, ...]] = (
        ("inputs.{i}.conv.{p}", "input_convs.{i}.conv.{p}"),
        ("inputs.{i}.norm.{p}", "input_convs.{i}.gn.{p}"),
        ("level_embed", "level_encoding.weight"),
        *prefixed(DeformableEncoderLayer.renames, "encoder.{i}.", "encoder.layers.{i}."),
        ("lateral.conv.{p}", "lateral_convs.0.conv.{p}"),
        ("lateral.norm.{p}", "lateral_convs.0.gn.{p}"),
        ("output.conv.{p}", "output_convs.0.conv.{p}"),
        ("output.norm.{p}", "output_convs.0.gn.{p}"),
        ("pixel_embed.{p}", "mask_feature.{p}"),
    )

    def __init__(
        self, in_channels: Sequence[int], channels: int, *, heads: int, hidden_channels: int, layers: int, points: int
    ) -> None:
        super().__init__()
        finest, *coarser = in_channels
        self.inputs = nn.ModuleList(
            ConvNorm(width, channels, norm=nn.GroupNorm(GROUPS, channels), relu=False, bias=True)
            for width in reversed(coarser)
        )
        self.level_embed = nn.Parameter(torch.randn(len(coarser), channels))
        self.encoder = nn.ModuleList(
            DeformableEncoderLayer(channels, heads, hidden_channels, levels=len(coarser), points=points)
            for _ in range(layers)
        )
        self.lateral = ConvNorm(finest, channels, norm=nn.GroupNorm(GROUPS, channels), relu=False)
        self.output = ConvNorm(channels, channels, kernel_size=3, norm=nn.GroupNorm(GROUPS, channels))
        self.pixel_embed = nn.Conv2d(channels, channels, kernel_size=1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the official model does."""
        for name, parameter in self.encoder.named_parameters():
            if "ffn.fc" in name and parameter.ndim > 1:
                nn.init.xavier_normal_(parameter)
        for unit in cast(Iterable[ConvNorm], self.inputs):
            nn.init.xavier_uniform_(unit.conv.weight)
        for conv in (self.lateral.conv, self.output.conv, self.pixel_embed):
            nn.init.kaiming_uniform_(conv.weight, a=1)
        nn.init.zeros_(cast(Tensor, self.pixel_embed.bias))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        finest, *coarser = maps
        levels = [project(x) for project, x in zip(self.inputs, reversed(coarser), strict=True)]
        sizes = [(x.shape[2], x.shape[3]) for x in levels]
        x = torch.cat([flatten(level) for level in levels], dim=1)
        position = torch.cat(
            [position_of(level) + embedding for level, embedding in zip(levels, self.level_embed, strict=True)],
            dim=1,
        )
        reference = pixel_centres(sizes, x)
        for layer in self.encoder:
            x = layer(x, position, reference, sizes)
        parts = torch.split(x, [height * width for height, width in sizes], dim=1)
        encoded = [torch.unflatten(part.mT, -1, size) for part, size in zip(parts, sizes, strict=True)]
        fine = self.lateral(finest)
        fine = self.output(fine + resize(encoded[-1], fine.shape[2:]))
        return self.pixel_embed(fine), encoded


def position_of(x: Tensor) -> Tensor:
    """Encodings of the places of a map [N, C, H, W], none of which is padding: [1, H * W, C]."""
    valid = torch.ones(1, *x.shape[2:], dtype=torch.bool, device=x.device)
    return flatten(sine_position_encoding(valid, x.shape[1], x.dtype))
