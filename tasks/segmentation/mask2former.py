"""Mask2Former: queries that each predict a mask and its class (arXiv 2112.01527)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internimage.renames import Row, prefixed
from internimage.tasks.layers.attention import FeedForward, MultiheadAttention
from internimage.tasks.layers.conv_norm import flatten, resize
from internimage.tasks.segmentation.pixel_decoder import PixelDecoder, position_of


class MaskPrediction(NamedTuple):
    """What the queries predict after one layer of the decoder."""

    class_logits: Tensor  # [N, queries, num_classes + 1]; the last means no object
    mask_logits: Tensor  # [N, queries, H, W]


class MaskedDecoderLayer(nn.Module):
    """Queries look at a map where their masks are, then at each other, then pass an MLP (figure 2).

    Each step is followed by the sum with its input and a norm.
    """

    def __init__(self, channels: int, heads: int, hidden_channels: int) -> None:
        super().__init__()
        self.cross_attention = MultiheadAttention(channels, heads)
        self.cross_norm = nn.LayerNorm(channels)
        self.self_attention = MultiheadAttention(channels, heads)
        self.self_norm = nn.LayerNorm(channels)
        self.ffn = FeedForward(channels, hidden_channels)
        self.ffn_norm = nn.LayerNorm(channels)

    def forward(
        self, queries: Tensor, queries_position: Tensor, memory: Tensor, memory_position: Tensor, mask: Tensor
    ) -> Tensor:
        """Update the queries.

        Args:
            queries: [N, Q, C].
            queries_position: [Q, C].
            memory: [N, K, C], a flattened map.
            memory_position: [1, K, C].
            mask: [N, Q, K], True where a query may look.

        Returns:
            [N, Q, C].
        """
        looked = self.cross_attention(queries + queries_position, memory + memory_position, memory, mask)
        queries = self.cross_norm(queries + looked)
        placed = queries + queries_position
        queries = self.self_norm(queries + self.self_attention(placed, placed, queries))
        out: Tensor = self.ffn_norm(queries + self.ffn(queries))
        return out


class Mask2FormerHead(nn.Module):
    """The head of Mask2Former.

    Shapes: the backbone's maps [N, C_i, H_i, W_i], finest first -> a `MaskPrediction` at the size of the first, for
    the queries as they were learned and after each layer.

    Args:
        in_channels: C_i.
        num_classes: without the class "no object".
        channels: of the queries and maps; a multiple of 32.
        heads: of all attentions.
        pixel_hidden_channels: of the pixel decoder's MLPs.
        hidden_channels: of the decoder's MLPs.
        queries: masks at most.
        pixel_layers: of the pixel decoder.
        layers: of the decoder.
        points: that the pixel decoder's attention looks at in each map.
    """

    renames: ClassVar[tuple[Row, ...]] = (
        *prefixed(PixelDecoder.renames, "pixel_decoder.", "pixel_decoder."),
        *prefixed(
            (
                *prefixed(MultiheadAttention.renames, "cross_attention.", "attentions.0."),
                ("cross_norm.{p}", "norms.0.{p}"),
                *prefixed(MultiheadAttention.renames, "self_attention.", "attentions.1."),
                ("self_norm.{p}", "norms.1.{p}"),
                *prefixed(FeedForward.renames, "ffn.", "ffns.0."),
                ("ffn_norm.{p}", "norms.2.{p}"),
            ),
            "decoder.{i}.",
            "transformer_decoder.layers.{i}.",
        ),
        ("norm.{p}", "transformer_decoder.post_norm.{p}"),
        ("query", "query_feat.weight"),
        ("query_position", "query_embed.weight"),
        ("level_embed", "level_embed.weight"),
        ("class_embed.{p}", "cls_embed.{p}"),
        ("mask_embed.{i}.{p}", "mask_embed.{i}.{p}"),
    )

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 256,
        heads: int = 8,
        pixel_hidden_channels: int = 1024,
        hidden_channels: int = 2048,
        queries: int = 100,
        pixel_layers: int = 6,
        layers: int = 9,
        points: int = 4,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.pixel_decoder = PixelDecoder(
            in_channels,
            channels,
            heads=heads,
            hidden_channels=pixel_hidden_channels,
            layers=pixel_layers,
            points=points,
        )
        self.decoder = nn.ModuleList(MaskedDecoderLayer(channels, heads, hidden_channels) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Parameter(torch.randn(queries, channels))
        self.query_position = nn.Parameter(torch.randn(queries, channels))
        self.level_embed = nn.Parameter(torch.randn(len(in_channels) - 1, channels))
        self.mask_embed = nn.Sequential(
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
        )
        self.reset_classifier(num_classes)
        for parameter in self.decoder.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_normal_(parameter)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a freshly initialised one."""
        self.num_classes = num_classes
        self.class_embed = nn.Linear(self.channels, num_classes + 1)

    def forward(self, maps: Sequence[Tensor]) -> list[MaskPrediction]:
        pixels, levels = self.pixel_decoder(maps)
        memories = [flatten(level) + embedding for level, embedding in zip(levels, self.level_embed, strict=True)]
        positions = [position_of(level) for level in levels]
        queries = self.query.expand(pixels.shape[0], -1, -1)
        predictions = [self._predict(queries, pixels)]
        for i, layer in enumerate(self.decoder):
            i %= len(levels)
            mask = attention_mask(predictions[-1].mask_logits, levels[i].shape[2:])
            queries = layer(queries, self.query_position, memories[i], positions[i], mask)
            predictions.append(self._predict(queries, pixels))
        return predictions

    def semantic_scores(self, predictions: list[MaskPrediction]) -> Tensor:
        """What `forward` returns -> [N, num_classes, H, W], of the last layer; see `semantic_scores`."""
        return semantic_scores(predictions[-1])

    def _predict(self, queries: Tensor, pixels: Tensor) -> MaskPrediction:
        queries = self.norm(queries)
        masks = torch.einsum("nqc,nchw->nqhw", self.mask_embed(queries), pixels)
        return MaskPrediction(self.class_embed(queries), masks)


@torch.no_grad()
def attention_mask(mask_logits: Tensor, size: Sequence[int]) -> Tensor:
    """Where each query may look in the next layer: inside its mask, or everywhere if that is empty.

    Args:
        mask_logits: [N, Q, H, W].
        size: height and width of the map that is looked at.

    Returns:
        [N, Q, height * width] of bool.
    """
    inside = (resize(mask_logits, size).sigmoid() >= 0.5).flatten(2)
    return inside | ~inside.any(dim=-1, keepdim=True)


def semantic_scores(prediction: MaskPrediction) -> Tensor:
    """A score for each class and pixel: masks weighted by the probability of the class (MaskFormer, section 3.4).

    Returns:
        [N, num_classes, H, W]; not probabilities, the sum over the classes may be anything.
    """
    classes = F.softmax(prediction.class_logits, dim=-1)[..., :-1]
    return torch.einsum("nqc,nqhw->nchw", classes, prediction.mask_logits.sigmoid())
