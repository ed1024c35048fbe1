"""Region proposal network: where objects may be (Faster R-CNN, arXiv 1506.01497, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internimage.renames import Row
from internimage.tasks.detection.anchors import Anchors, lie_inside
from internimage.tasks.detection.assign import Assigner
from internimage.tasks.detection.batch import ImageBatch
from internimage.tasks.detection.boxes import BoxCoder, box_sides, clip_boxes
from internimage.tasks.detection.losses import BoxLoss, delta_loss
from internimage.tasks.detection.sampling import sample
from internimage.tasks.detection.suppression import at_least_float32, keep_best

_CODER = BoxCoder()


class Proposals(NamedTuple):
    """Boxes that may hold objects, best first; those of an image beyond its number in `counts` are padding.

    Attributes:
        boxes: [N, P, 4], in pixels of the padded image; zeros as padding.
        scores: [N, P], from 0 to 1; -1 as padding.
        counts: [N].
    """

    boxes: Tensor
    scores: Tensor
    counts: Tensor


class RPNOutputs(NamedTuple):
    """What the head says of the anchors, a map for each level: logits [N, A, H, W] and deltas [N, 4A, H, W]."""

    logits: list[Tensor]
    deltas: list[Tensor]


@dataclass(frozen=True)
class ProposalLimits:
    """How many proposals are made.

    Attributes:
        per_level: candidates that suppression sees.
        per_image: proposals that remain.
    """

    per_level: int = 1000
    per_image: int = 1000


@dataclass(frozen=True)
class RPNTraining:
    """How the head is trained.

    Attributes:
        samples: anchors of an image that count.
        positive_share: of them, that objects may have.
        whole_inside: leave out the anchors that reach beyond the image.
        box_loss: of the positive anchors.
        assigner: of objects to anchors.
    """

    samples: int = 256
    positive_share: float = 0.5
    whole_inside: bool = False
    box_loss: BoxLoss = delta_loss
    assigner: Assigner = field(default_factory=lambda: Assigner(positive=0.7, negative=0.3, least=0.3))


class RPN(nn.Module):
    """One small network, slid over all levels, that scores and shifts the anchors.

    Shapes: maps [N, channels, H_i, W_i] -> `RPNOutputs`.

    Args:
        channels: of the pyramid.
        anchors: that it judges.
        iou_threshold: above which the better of two proposals of a level removes the other.
    """

    renames: ClassVar[tuple[Row, ...]] = (
        ("conv.{p}", "rpn_conv.{p}"),
        ("objectness.{p}", "rpn_cls.{p}"),
        ("deltas.{p}", "rpn_reg.{p}"),
    )

    def __init__(self, channels: int, *, anchors: Anchors | None = None, iou_threshold: float = 0.7) -> None:
        super().__init__()
        self.anchors = Anchors() if anchors is None else anchors
        self.iou_threshold = iou_threshold
        count = len(self.anchors.ratios)
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.objectness = nn.Conv2d(channels, count, kernel_size=1)
        self.deltas = nn.Conv2d(channels, 4 * count, kernel_size=1)
        for conv in (self.conv, self.objectness, self.deltas):
            nn.init.normal_(conv.weight, std=0.01)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, maps: Sequence[Tensor]) -> RPNOutputs:
        hidden = [F.relu(self.conv(x)) for x in maps]
        return RPNOutputs([self.objectness(x) for x in hidden], [self.deltas(x) for x in hidden])

    @torch.no_grad()
    def propose(self, outputs: RPNOutputs, sizes: Tensor, limits: ProposalLimits) -> Proposals:
        """The best boxes after suppression within each level; the number is fixed, so that this exports.

        Args:
            outputs: of `forward`.
            sizes: [N, 2], height and width of the images without padding.
            limits: how many.
        """
        all_anchors = self.anchors.of_levels(outputs.logits)
        levels = [_best_of_level(*level, limits.per_level) for level in zip(*outputs, all_anchors, strict=True)]
        scores = torch.cat([scores for scores, _ in levels], dim=1)
        boxes = clip_boxes(torch.cat([boxes for _, boxes in levels], dim=1), sizes[:, None])
        level = torch.arange(len(levels), device=scores.device).repeat_interleave(limits.per_level)
        valid = (scores >= 0) & (box_sides(boxes) > 0).all(dim=-1)
        groups = torch.where(valid, level, -1)
        (boxes,), scores, counts = keep_best((boxes,), boxes, scores, groups, self.iou_threshold, limits.per_image)
        return Proposals(boxes, scores, counts)

    def losses(
        self, outputs: RPNOutputs, images: ImageBatch, truth: Sequence[Tensor], training: RPNTraining
    ) -> dict[str, Tensor]:
        """Losses "rpn_objectness" and "rpn_box", averaged over the sampled anchors.

        Args:
            outputs: of `forward`.
            images: that they are of.
            truth: boxes [G, 4] of each image.
            training: settings.
        """
        levels = self.anchors.of_levels(outputs.logits)
        anchors = torch.cat(levels)
        logits = torch.cat([_by_anchor(x, 1).squeeze(2) for x in outputs.logits], dim=1)
        deltas = torch.cat([_by_anchor(x, 4) for x in outputs.deltas], dim=1)
        objectness, box, divisor = logits.sum() * 0, deltas.sum() * 0, 0
        for index, boxes in enumerate(truth):
            usable = self._usable(levels, outputs.logits, images, index, training)
            positive, negative, matched = _sampled(anchors, usable, boxes, training)
            sampled = logits[index, torch.cat((positive, negative))]
            labels = (torch.arange(len(sampled), device=sampled.device) < len(positive)).to(sampled.dtype)
            objectness = objectness + F.binary_cross_entropy_with_logits(sampled, labels, reduction="sum")
            box = box + training.box_loss(deltas[index, positive], anchors[positive], boxes[matched], _CODER)
            divisor += max(len(positive), 1) + max(len(negative), 1)  # as in the official training
        return {"rpn_objectness": objectness / divisor, "rpn_box": box / divisor}

    def _usable(
        self, levels: list[Tensor], maps: list[Tensor], images: ImageBatch, index: int, training: RPNTraining
    ) -> Tensor:
        """Indices of the anchors that may learn."""
        padded = images.padded_size(index)
        inside = torch.cat(
            [self.anchors.inside_padded(level, x.shape[2], x.shape[3], padded) for level, x in enumerate(maps)]
        ).to(levels[0].device)
        if training.whole_inside:
            inside &= lie_inside(torch.cat(levels), images.size(index))
        return inside.nonzero().squeeze(1)


def _sampled(anchors: Tensor, usable: Tensor, truth: Tensor, training: RPNTraining) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the positive and the negative anchors, and of the true box of each positive one."""
    assigned = training.assigner.assign(anchors[usable], truth)
    positive, negative = sample(assigned, training.samples, training.positive_share)
    return usable[positive], usable[negative], assigned[positive]


def _by_anchor(x: Tensor, values: int) -> Tensor:
    """A map [N, A * values, H, W] -> [N, H * W * A, values], in float32 at least."""
    return at_least_float32(x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, values))


def _best_of_level(logits: Tensor, deltas: Tensor, anchors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Scores [N, count], falling, and boxes [N, count, 4]; a level with fewer anchors is padded with scores of -1."""
    scores = _by_anchor(logits, 1).squeeze(2).sigmoid()
    scores, chosen = F.pad(scores, (0, count), value=-1.0).topk(count)
    chosen = chosen.clamp(max=anchors.shape[0] - 1)
    deltas = _by_anchor(deltas, 4).gather(1, chosen.unsqueeze(2).expand(-1, -1, 4))
    return scores, _CODER.decode(anchors[chosen], deltas)
