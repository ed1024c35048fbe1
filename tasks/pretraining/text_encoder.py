"""A compact transformer that makes a vector of a text."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from internimage.layers import layer_norm, linear

PADDING = 0  # token


class TextEncoder(nn.Module):
    """Pre-norm transformer over byte-pair tokens, read at the first one, which starts every text.

    Shapes: tokens [N, L] of int, PADDING after the end -> [N, out_channels].

    Args:
        vocabulary: how many tokens there are.
        length: L at most.
        width: of the layers, a multiple of 64.
        layers: how many.
        out_channels: of the representation.
    """

    def __init__(self, vocabulary: int, length: int, width: int, layers: int, out_channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.empty(length, width))
        layer = nn.TransformerEncoderLayer(
            width, width // 64, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = layer_norm(width)
        self.output_proj = linear(width, out_channels)
        nn.init.trunc_normal_(self.embedding.weight, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.01)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position[: tokens.shape[1]]
        x = self.layers(x, src_key_padding_mask=tokens == PADDING)
        out: Tensor = self.output_proj(self.norm(x[:, 0]))
        return out
