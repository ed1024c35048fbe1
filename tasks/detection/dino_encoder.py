"""The encoder of DINO, and where in the image each of its tokens lies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internimage.renames import Row, prefixed
from internimage.tasks.layers.attention import sine_position_encoding
from internimage.tasks.layers.conv_norm import flatten
from internimage.tasks.layers.deformable_attention import DeformableEncoderLayer, pixel_centres

TEMPERATURE = 20.0  # of the encodings of pixels


class Memory(NamedTuple):
    """The pixels of all levels as tokens, finest level first.

    Attributes:
        tokens: [N, S, C].
        padding: [N, S] of bool.
        centres: [N, S, 2], (x, y) from 0 to 1 across the image without padding.
        ratios: [N, levels, 2], the share of each map's width and height that is no padding.
        sizes: height and width of each level.
    """

    tokens: Tensor
    padding: Tensor
    centres: Tensor
    ratios: Tensor
    sizes: list[tuple[int, int]]


class DINOEncoder(nn.Module):
    """Deformable self-attention over four maps (arXiv 2010.04159, section 4.1).

    Args:
        channels: of the maps.
        heads: of the attention.
        hidden_channels: of the MLPs.
        layers: of the encoder.
        levels: maps.
        points: that a head looks at in each map.
    """

    renames: ClassVar[tuple[Row, ...]] = (
        ("level_embed", "level_embeds"),
        *prefixed(DeformableEncoderLayer.renames, "layers.{i}.", "encoder.layers.{i}."),
    )

    def __init__(
        self, channels: int, heads: int, hidden_channels: int, *, layers: int, levels: int = 4, points: int = 4
    ) -> None:
        super().__init__()
        self.level_embed = nn.Parameter(torch.randn(levels, channels))
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(channels, heads, hidden_channels, levels=levels, points=points)
            for _ in range(layers)
        )
        for layer in cast(Iterable[DeformableEncoderLayer], self.layers):
            for linear in (layer.ffn.fc1, layer.ffn.fc2):
                nn.init.xavier_uniform_(linear.weight)

    def forward(self, levels: Sequence[Tensor], image_size: tuple[int, int], sizes: Tensor) -> Memory:
        """Encode.

        Args:
            levels: [N, C, H_i, W_i], finest first.
            image_size: height and width of the padded images, pixels.
            sizes: [N, 2], those of each image without padding.
        """
        shapes = [(x.shape[2], x.shape[3]) for x in levels]
        tokens = torch.cat([flatten(x) for x in levels], dim=1)
        masks = [valid_pixels(sizes, image_size, shape) for shape in shapes]
        ratios = torch.stack([valid_share(mask, tokens) for mask in masks], dim=1)
        centres = torch.cat(
            [pixel_centres([shape], tokens) / ratios[:, level].view(-1, 1, 1, 2) for level, shape in enumerate(shapes)],
            dim=1,
        )
        padding = torch.cat([~mask.flatten(1) for mask in masks], dim=1)
        position = torch.cat(
            [
                flatten(sine_position_encoding(mask, x.shape[1], x.dtype, temperature=TEMPERATURE)) + embedding
                for mask, x, embedding in zip(masks, levels, self.level_embed, strict=True)
            ],
            dim=1,
        )
        reference = centres * ratios.unsqueeze(1)
        for layer in self.layers:
            tokens = layer(tokens, position, reference, shapes, padding)
        return Memory(tokens, padding, centres.squeeze(2), ratios, shapes)


def valid_pixels(sizes: Tensor, image_size: Sequence[int], map_size: Sequence[int]) -> Tensor:
    """Which pixels of a map see more than padding, by the nearest pixel of the image.

    Args:
        sizes: [N, 2], height and width of each image without padding.
        image_size: height and width with padding.
        map_size: height and width of the map.

    Returns:
        [N, *map_size] of bool.
    """
    rows, columns = (
        F.interpolate((torch.arange(whole, device=sizes.device) < side).float().unsqueeze(1), size=length).squeeze(1)
        for side, whole, length in zip(torch.split(sizes, 1, dim=1), image_size, map_size, strict=True)
    )
    return (rows.unsqueeze(2) * columns.unsqueeze(1)) > 0


def valid_share(valid: Tensor, like: Tensor) -> Tensor:
    """[N, H, W] of bool -> [N, 2], the share of the width and height that is valid; float32 at least."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.stack((valid[:, 0].to(dtype).mean(1), valid[:, :, 0].to(dtype).mean(1)), dim=1)
