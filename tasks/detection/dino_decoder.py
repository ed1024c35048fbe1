"""The decoder of DINO: queries that each end as one box and its class (arXiv 2203.03605)."""

from __future__ import annotations

import copy
import math
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from internimage.renames import Row, prefixed
from internimage.tasks.detection.dino_encoder import Memory
from internimage.tasks.layers.attention import FeedForward, MultiheadAttention, sine_encoding
from internimage.tasks.layers.deformable_attention import DeformableAttention

SMALLEST_SIDE = 0.05  # of a proposal of the finest level, by the image's sides; it doubles from level to level
BORDER = 0.01  # a proposal with a centre or side nearer to 0 or 1 is none
CLASS_PRIOR = 0.01  # probability of every class before training (RetinaNet, arXiv 1708.02002, section 4.1)
EPSILON = 1e-3  # probabilities this near to 0 or 1 have the logit of this one


class Prediction(NamedTuple):
    """What each query says.

    Attributes:
        class_logits: [N, Q, num_classes].
        boxes: [N, Q, 4], centre x and y, width and height, from 0 to 1 across the image without padding.
    """

    class_logits: Tensor
    boxes: Tensor

    def part(self, images: slice = slice(None), queries: slice = slice(None)) -> Prediction:
        """What some queries say of some images."""
        return Prediction(*(x[images, queries] for x in self))


class Predictions(NamedTuple):
    """What the tokens say that the encoder selects, and the queries after each layer of the decoder."""

    selected: Prediction
    layers: list[Prediction]

    def part(self, images: slice) -> Predictions:
        """What is said of some images."""
        return Predictions(self.selected.part(images), [layer.part(images) for layer in self.layers])


class QuerySelection(nn.Module):
    """The encoder's tokens that look most like an object: where the queries begin (section 3.4).

    Args:
        channels: of the tokens.
        num_classes: of the objects.
        queries: how many tokens; all, where there are fewer.
    """

    renames: ClassVar[tuple[Row, ...]] = (
        ("proj.{p}", "transformer.enc_output.{p}"),
        ("norm.{p}", "transformer.enc_output_norm.{p}"),
    )

    def __init__(self, channels: int, num_classes: int, queries: int) -> None:
        super().__init__()
        self.queries = queries
        self.proj = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.classifier = class_branch(channels, num_classes)
        self.box_branch = box_branch(channels)
        nn.init.xavier_uniform_(self.proj.weight)

    def forward(self, memory: Memory) -> Prediction:
        proposals, valid = self.proposals(memory)
        tokens = self.norm(self.proj(memory.tokens.masked_fill(~valid, 0.0)))
        logits = self.classifier(tokens)
        chosen = logits.amax(-1).topk(min(self.queries, logits.shape[1])).indices.unsqueeze(-1)
        logits, tokens, proposals = (
            x.gather(1, chosen.expand(-1, -1, x.shape[-1])) for x in (logits, tokens, proposals)
        )
        return Prediction(logits, (self.box_branch(tokens) + proposals).sigmoid())

    def proposals(self, memory: Memory) -> tuple[Tensor, Tensor]:
        """The logits of a box for each token [N, S, 4], infinite where there is none; and where one is [N, S, 1]."""
        sides = torch.cat(
            [
                memory.centres.new_full((height * width, 2), SMALLEST_SIDE * 2**level)
                for level, (height, width) in enumerate(memory.sizes)
            ]
        )
        boxes = torch.cat((memory.centres, sides.expand_as(memory.centres)), dim=-1)
        inside = ((boxes > BORDER) & (boxes < 1 - BORDER)).all(-1, keepdim=True)
        valid = inside & ~memory.padding.unsqueeze(-1)
        return (boxes / (1 - boxes)).log().masked_fill(~valid, math.inf), valid


class DINODecoderLayer(nn.Module):
    """Queries look at each other, then at the image around their boxes, then pass an MLP.

    Each step is followed by the sum with its input and a norm.
    """

    renames: ClassVar[tuple[Row, ...]] = (
        *prefixed(MultiheadAttention.renames, "self_attention.", "attentions.0."),
        ("self_norm.{p}", "norms.0.{p}"),
        *prefixed(DeformableAttention.renames, "cross_attention.", "attentions.1."),
        ("cross_norm.{p}", "norms.1.{p}"),
        *prefixed(FeedForward.renames, "ffn.", "ffns.0."),
        ("ffn_norm.{p}", "norms.2.{p}"),
    )

    def __init__(self, channels: int, heads: int, hidden_channels: int, *, levels: int, points: int) -> None:
        super().__init__()
        self.self_attention = MultiheadAttention(channels, heads)
        self.self_norm = nn.LayerNorm(channels)
        self.cross_attention = DeformableAttention(channels, heads, levels=levels, points=points)
        self.cross_norm = nn.LayerNorm(channels)
        self.ffn = FeedForward(channels, hidden_channels)
        self.ffn_norm = nn.LayerNorm(channels)
        for weight in (self.self_attention.out_proj.weight, self.ffn.fc1.weight, self.ffn.fc2.weight):
            nn.init.xavier_uniform_(weight)

    def forward(
        self, queries: Tensor, position: Tensor, reference: Tensor, memory: Memory, mask: Tensor | None
    ) -> Tensor:
        """Update the queries.

        Args:
            queries: [N, Q, C].
            position: [N, Q, C].
            reference: [N, Q, levels, 4], the queries' boxes, from 0 to 1 across each padded map.
            memory: of the encoder.
            mask: [Q, Q], True where a query may look at another one.
        """
        placed = queries + position
        queries = self.self_norm(queries + self.self_attention(placed, placed, queries, mask))
        looked = self.cross_attention(queries + position, reference, memory.tokens, memory.sizes, memory.padding)
        queries = self.cross_norm(queries + looked)
        out: Tensor = self.ffn_norm(queries + self.ffn(queries))
        return out


class DINODecoder(nn.Module):
    """Layers that refine the queries' boxes; each looks forward twice (section 3.5).

    Args:
        channels: of the queries.
        num_classes: of the objects.
        heads: of all attentions.
        hidden_channels: of the MLPs.
        layers: of the decoder.
        levels: maps of the memory.
        points: that a head looks at in each map.
    """

    renames: ClassVar[tuple[Row, ...]] = (
        *prefixed(DINODecoderLayer.renames, "layers.{i}.", "transformer.decoder.layers.{i}."),
        ("position.{i}.{p}", "transformer.decoder.ref_point_head.{i}.{p}"),
        ("norm.{p}", "transformer.decoder.norm.{p}"),
        ("classifiers.{i}.{p}", "cls_branches.{i}.{p}"),
        ("box_branches.{i}.{j}.{p}", "reg_branches.{i}.{j}.{p}"),
    )

    def __init__(
        self,
        channels: int,
        num_classes: int,
        heads: int,
        hidden_channels: int,
        *,
        layers: int,
        levels: int = 4,
        points: int = 4,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.layers = nn.ModuleList(
            DINODecoderLayer(channels, heads, hidden_channels, levels=levels, points=points) for _ in range(layers)
        )
        self.position = nn.Sequential(nn.Linear(2 * channels, channels), nn.ReLU(), nn.Linear(channels, channels))
        self.norm = nn.LayerNorm(channels)
        self.box_branches = _copies(box_branch(channels), layers)
        self.reset_classifier(num_classes)
        for linear in (self.position[0], self.position[2]):
            nn.init.xavier_uniform_(cast(Tensor, linear.weight))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifiers by freshly initialised ones."""
        self.classifiers = _copies(class_branch(self.channels, num_classes), len(self.layers))

    def forward(self, queries: Tensor, boxes: Tensor, memory: Memory, mask: Tensor | None = None) -> list[Prediction]:
        """What the queries say after each layer.

        Args:
            queries: [N, Q, C].
            boxes: [N, Q, 4], where they begin; see `Prediction`.
            memory: of the encoder.
            mask: [Q, Q], True where a query may look at another one.
        """
        predictions = []
        ratios = torch.cat((memory.ratios, memory.ratios), dim=-1).unsqueeze(1)
        for layer, classifier, branch in zip(self.layers, self.classifiers, self.box_branches, strict=True):
            reference = boxes.detach().unsqueeze(2) * ratios
            position = self.position(box_encoding(reference[:, :, 0], self.channels).to(queries.dtype))
            queries = layer(queries, position, reference, memory, mask)
            normed = self.norm(queries)
            # The box that is predicted passes its gradient on to the layer before; the one that is refined does not.
            predictions.append(Prediction(classifier(normed), (branch(normed) + inverse_sigmoid(boxes)).sigmoid()))
            boxes = (branch(queries) + inverse_sigmoid(boxes.detach())).sigmoid()
        return predictions


def class_branch(channels: int, num_classes: int) -> nn.Linear:
    """Tokens -> logits of classes, which are improbable at first."""
    classifier = nn.Linear(channels, num_classes)
    nn.init.constant_(classifier.bias, -math.log((1 - CLASS_PRIOR) / CLASS_PRIOR))
    return classifier


def box_branch(channels: int) -> nn.Sequential:
    """Tokens -> what to add to the logits of their boxes, nothing at first."""
    last = nn.Linear(channels, 4)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU(), last)


def box_encoding(boxes: Tensor, channels: int) -> Tensor:
    """Sines and cosines of boxes (DAB-DETR, arXiv 2201.12329, section 4.1).

    Args:
        boxes: [..., 4], centre x and y, width and height, from 0 to 1.
        channels: half as many for each number.

    Returns:
        [..., 2 * channels], of y, x, width and height.
    """
    x, y, width, height = boxes.unbind(-1)
    return sine_encoding(torch.stack((y, x, width, height), dim=-1), channels // 2).flatten(-2)


def inverse_sigmoid(probability: Tensor) -> Tensor:
    """The logit, of a probability not too near to 0 or 1."""
    probability = probability.clamp(0, 1)
    return (probability.clamp(min=EPSILON) / (1 - probability).clamp(min=EPSILON)).log()


def _copies(module: nn.Module, count: int) -> nn.ModuleList:
    return nn.ModuleList(copy.deepcopy(module) for _ in range(count))  # the layers begin alike
