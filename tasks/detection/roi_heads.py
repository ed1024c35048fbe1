"""What becomes of proposals: one stage of box and mask heads, or a cascade of them (arXiv 1712.00726)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internimage.renames import Row, prefixed
from internimage.tasks.detection import box_head, mask_head
from internimage.tasks.detection.assign import Assigner
from internimage.tasks.detection.batch import ImageBatch, Truth
from internimage.tasks.detection.box_head import BoxHead
from internimage.tasks.detection.boxes import clip_boxes
from internimage.tasks.detection.detections import Detections
from internimage.tasks.detection.losses import BoxLoss, mask_loss
from internimage.tasks.detection.mask_head import MaskHead
from internimage.tasks.detection.masks import mask_targets
from internimage.tasks.detection.pooling import join_rois, pool_regions, to_rois
from internimage.tasks.detection.rpn import Proposals
from internimage.tasks.detection.sampling import sample
from internimage.tasks.detection.suppression import keep_best


@dataclass(frozen=True)
class Selection:
    """Which detections remain.

    Attributes:
        score_threshold: that scores must exceed.
        iou_threshold: above which the better of two boxes of a class removes the other.
        per_image: at most so many.
    """

    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    per_image: int = 100


@dataclass(frozen=True)
class StageTraining:
    """How one stage is trained.

    Attributes:
        assigner: of objects to proposals.
        box_loss: of the positive proposals.
        weight: of its losses.
        samples: proposals of an image that count.
        positive_share: of them, that objects may have.
    """

    assigner: Assigner
    box_loss: BoxLoss
    weight: float = 1.0
    samples: int = 512
    positive_share: float = 0.25


class _Sampled(NamedTuple):
    """An image's proposals that a stage learns from, those of objects first."""

    boxes: Tensor  # [K, 4]
    labels: Tensor  # [K], of background the number of classes
    matched: Tensor  # [positives], true boxes
    true_box: Tensor  # [K], whether it is one of the true boxes, which join the proposals


class RoIHeads(nn.Module):
    """The heads of all stages.

    Args:
        box_heads: one for each stage; every stage starts from the boxes of the one before.
        mask_heads: one for each stage, or none at all.
        selection: of detections.
    """

    def __init__(
        self, box_heads: Sequence[BoxHead], mask_heads: Sequence[MaskHead] = (), *, selection: Selection | None = None
    ) -> None:
        super().__init__()
        self.box_heads = nn.ModuleList(box_heads)
        self.mask_heads = nn.ModuleList(mask_heads)
        self.selection = Selection() if selection is None else selection

    @property
    def num_classes(self) -> int:
        return self._box_heads[0].num_classes

    @property
    def renames(self) -> tuple[Row, ...]:
        """A cascade's heads are numbered in official names, a single one's are not."""
        number = "{i}." if len(self.box_heads) > 1 else ""
        ours = number or "0."
        return (
            *prefixed(BoxHead.renames, f"box_heads.{ours}", f"bbox_head.{number}"),
            *prefixed(MaskHead.renames, f"mask_heads.{ours}", f"mask_head.{number}"),
        )

    def detect(self, maps: Sequence[Tensor], proposals: Proposals, sizes: Tensor) -> Detections:
        """Classify and refine proposals, and remove what is found twice; the number of results is fixed.

        Args:
            maps: of the pyramid.
            proposals: in images without padding of these sizes.
            sizes: [N, 2], height and width.
        """
        boxes = proposals.boxes
        all_logits = []
        for stage, head in enumerate(self._box_heads):
            logits, deltas = self._classify(head, maps, to_rois(boxes, proposals.counts))
            all_logits.append(logits)
            if stage + 1 < len(self.box_heads):
                best = logits[:, :-1].argmax(dim=1, keepdim=True)
                refined = head.coder.decode(boxes.flatten(0, 1), head.deltas_of(deltas, best).squeeze(1))
                boxes = clip_boxes(refined.view_as(boxes), sizes[:, None])
        valid = proposals.scores >= 0
        scores = torch.stack(all_logits).mean(dim=0).softmax(dim=1)[:, :-1].reshape(*valid.shape, -1)
        scores, labels = scores.topk(_most_above(self.selection.score_threshold, self.num_classes), dim=2)
        chosen = head.deltas_of(deltas, labels.flatten(0, 1)).reshape(*labels.shape, 4)
        boxes = clip_boxes(head.coder.decode(boxes.unsqueeze(2), chosen), sizes[:, None, None]).flatten(1, 2)
        candidate = (scores > self.selection.score_threshold) & valid.unsqueeze(2)
        groups = torch.where(candidate, labels, -1).flatten(1)
        (boxes, labels), scores, counts = keep_best(
            (boxes, labels.flatten(1)),
            boxes,
            scores.flatten(1),
            groups,
            self.selection.iou_threshold,
            self.selection.per_image,
        )
        return Detections(boxes, scores, labels, counts)

    def draw_masks(self, maps: Sequence[Tensor], rois: Tensor, labels: Tensor) -> Tensor:
        """Probabilities [K, 28, 28] of the pixels of regions, averaged over the stages.

        Args:
            maps: of the pyramid.
            rois: [K, 5], see `pool_regions`.
            labels: [K].
        """
        regions = pool_regions(maps, rois, mask_head.REGION_SIZE)
        index = labels.view(-1, 1, 1, 1).expand(-1, 1, mask_head.MASK_SIZE, mask_head.MASK_SIZE)
        drawn = [head(regions).gather(1, index).squeeze(1).sigmoid() for head in self._mask_heads]
        return torch.stack(drawn).mean(dim=0)

    def losses(
        self,
        maps: Sequence[Tensor],
        proposals: Sequence[Tensor],
        images: ImageBatch,
        truth: Sequence[Truth],
        training: Sequence[StageTraining],
    ) -> dict[str, Tensor]:
        """Losses "class", "box" and "mask"; in a cascade those of stage i are called "stage{i}.class" and so on.

        Args:
            maps: of the pyramid.
            proposals: boxes [K, 4] of each image.
            images: that they are of.
            truth: the objects of each image.
            training: settings of each stage.
        """
        losses: dict[str, Tensor] = {}
        boxes = list(proposals)
        for stage, (head, settings) in enumerate(zip(self._box_heads, training, strict=True)):
            prefix = f"stage{stage}." if len(self.box_heads) > 1 else ""
            samples = [_sample(x, y, settings, self.num_classes) for x, y in zip(boxes, truth, strict=True)]
            logits, deltas = self._classify(head, maps, join_rois([sampled.boxes for sampled in samples]))
            found = _box_losses(head, logits, deltas, samples, truth, settings)
            if self.mask_heads:
                found["mask"] = self._mask_loss(stage, maps, samples, truth)
            losses.update({prefix + name: settings.weight * loss for name, loss in found.items()})
            if stage + 1 < len(self.box_heads):
                boxes = _refined(head, logits, deltas, samples, images)
        return losses

    @property
    def _box_heads(self) -> Sequence[BoxHead]:
        return cast(Sequence[BoxHead], self.box_heads)

    @property
    def _mask_heads(self) -> Sequence[MaskHead]:
        return cast(Sequence[MaskHead], self.mask_heads)

    def _classify(self, head: BoxHead, maps: Sequence[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = head(pool_regions(maps, rois, box_head.REGION_SIZE))
        return logits, deltas

    def _mask_loss(
        self, stage: int, maps: Sequence[Tensor], samples: Sequence[_Sampled], truth: Sequence[Truth]
    ) -> Tensor:
        positive = [sampled.boxes[: len(sampled.matched)] for sampled in samples]
        labels = torch.cat([sampled.labels[: len(sampled.matched)] for sampled in samples])
        targets = torch.cat(
            [
                mask_targets(cast(Tensor, objects.masks), sampled.matched, boxes, mask_head.MASK_SIZE)
                for objects, sampled, boxes in zip(truth, samples, positive, strict=True)
            ]
        )
        regions = pool_regions(maps, join_rois(positive), mask_head.REGION_SIZE)
        return mask_loss(self._mask_heads[stage](regions), labels, targets)


def _most_above(threshold: float, classes: int) -> int:
    """How many classes of a region can have probabilities above the threshold, as their sum is 1 at most."""
    return classes if threshold <= 0 else max(1, min(classes, int(1 / threshold)))


@torch.no_grad()
def _sample(proposals: Tensor, truth: Truth, training: StageTraining, num_classes: int) -> _Sampled:
    boxes = torch.cat((truth.boxes, proposals.to(truth.boxes.dtype)))
    assigned = training.assigner.assign(boxes, truth.boxes)
    positive, negative = sample(assigned, training.samples, training.positive_share)
    matched = assigned[positive]
    chosen = torch.cat((positive, negative))
    labels = torch.cat((truth.labels[matched], torch.full_like(negative, num_classes)))
    return _Sampled(boxes[chosen], labels, matched, (chosen < len(truth.boxes)) & (labels < num_classes))


def _box_losses(
    head: BoxHead,
    logits: Tensor,
    deltas: Tensor,
    samples: Sequence[_Sampled],
    truth: Sequence[Truth],
    training: StageTraining,
) -> dict[str, Tensor]:
    labels = torch.cat([sampled.labels for sampled in samples])
    positive = (labels < head.num_classes).nonzero().squeeze(1)
    true_boxes = torch.cat([objects.boxes[sampled.matched] for objects, sampled in zip(truth, samples, strict=True)])
    boxes = torch.cat([sampled.boxes for sampled in samples])[positive]
    chosen = head.deltas_of(deltas[positive], labels[positive, None]).squeeze(1)
    count = max(len(labels), 1)
    return {
        "class": F.cross_entropy(logits, labels, reduction="sum") / count,
        "box": training.box_loss(chosen, boxes, true_boxes, head.coder) / count,  # by all samples, as officially
    }


@torch.no_grad()
def _refined(
    head: BoxHead, logits: Tensor, deltas: Tensor, samples: Sequence[_Sampled], images: ImageBatch
) -> list[Tensor]:
    """The boxes of each image after a stage, without the true ones."""
    labels = torch.cat([sampled.labels for sampled in samples])
    labels = torch.where(labels < head.num_classes, labels, logits[:, :-1].argmax(dim=1))
    chosen = head.deltas_of(deltas, labels.unsqueeze(1)).squeeze(1)
    refined = head.coder.decode(torch.cat([sampled.boxes for sampled in samples]), chosen)
    parts = torch.split(refined, [len(sampled.boxes) for sampled in samples])
    return [
        clip_boxes(boxes[~sampled.true_box], size)
        for boxes, sampled, size in zip(parts, samples, images.sizes, strict=True)
    ]
