"""Two-stage detectors: Faster, Mask and Cascade R-CNN (arXiv 1506.01497, 1703.06870, 1712.00726)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from internimage.renames import BACKBONE_TABLE, Renames, prefixed
from internimage.tasks.detection.batch import ImageBatch, Truth, pad_images, read_targets
from internimage.tasks.detection.detections import Detections
from internimage.tasks.detection.fpn import FPN
from internimage.tasks.detection.masks import paste_masks
from internimage.tasks.detection.pooling import join_rois, to_rois
from internimage.tasks.detection.roi_heads import RoIHeads, StageTraining
from internimage.tasks.detection.rpn import RPN, ProposalLimits, RPNTraining


@dataclass(frozen=True)
class DetectorTraining:
    """How the heads are trained.

    Attributes:
        rpn: settings of the region proposal network.
        stages: settings of each stage of the heads.
        limits: of the proposals in training.
    """

    rpn: RPNTraining
    stages: tuple[StageTraining, ...]
    limits: ProposalLimits


class MaskRCNN(nn.Module):
    """A backbone, a pyramid, proposals, and the heads that make objects of them.

    As torchvision's detectors it takes a list of images [3, H, W], which may differ in size. They are normalised
    already. In evaluation mode it returns a dict for each: "boxes" [K, 4] in pixels of the image, "scores" [K] in
    falling order, "labels" [K] from 0, and with mask heads "masks" [K, H, W], bool. In training mode it takes a list of
    such dicts too and returns a dict of losses, to be summed.

    Args:
        backbone: image -> four maps, finest first; see `internimage.create_model(features_only=True)`.
        fpn: for these maps.
        rpn: for the pyramid.
        roi_heads: one stage of heads, or a cascade.
        training: settings of the losses.
        limits: of the proposals in evaluation.
    """

    entrances: ClassVar[tuple[str, ...]] = ("look", "draw")

    def __init__(
        self,
        backbone: nn.Module,
        fpn: FPN,
        rpn: RPN,
        roi_heads: RoIHeads,
        *,
        training: DetectorTraining,
        limits: ProposalLimits | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.fpn = fpn
        self.rpn = rpn
        self.roi_heads = roi_heads
        self.training_settings = training
        self.limits = ProposalLimits() if limits is None else limits

    @property
    def num_classes(self) -> int:
        return self.roi_heads.num_classes

    @property
    def has_masks(self) -> bool:
        return len(self.roi_heads.mask_heads) > 0

    @property
    def renames(self) -> Renames:
        """The official names of the parameters."""
        return Renames(
            (
                *prefixed(BACKBONE_TABLE, "backbone.", "backbone."),
                *prefixed(FPN.renames, "fpn.", "neck."),
                *prefixed(RPN.renames, "rpn.", "rpn_head."),
                *prefixed(self.roi_heads.renames, "roi_heads.", "roi_head."),
            )
        )

    def forward(self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None) -> Any:
        batch = pad_images(images)
        if not self.training:
            return self._found(batch)
        truth = read_targets(targets, batch, self.num_classes, self.has_masks)
        return self.losses(batch, truth)

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """Image [N, 3, H, W] -> the five maps that the heads look at, strides 4 to 64."""
        maps: list[Tensor] = self.fpn(self.backbone(image))
        return maps

    def detect(self, maps: Sequence[Tensor], sizes: Tensor) -> Detections:
        """The objects in the maps of `pyramid`, of images without padding of these sizes [N, 2], height and width."""
        proposals = self.rpn.propose(self.rpn(maps), sizes, self.limits)
        return self.roi_heads.detect(maps, proposals, sizes)

    def look(self, image: Tensor) -> tuple[list[Tensor], Detections]:
        """The maps of one normalised image [3, H, W], and the objects in it, for `draw`."""
        batch = pad_images([image])
        maps = self.pyramid(batch.image)
        return maps, self.detect(maps, batch.sizes)

    def draw(self, maps: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Probabilities [K, 28, 28] of the pixels of any boxes [K, 4] of one image, for their labels [K]."""
        return self.roi_heads.draw_masks(maps, join_rois([boxes]), labels)

    def find(self, image: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """The objects in padded images, and with mask heads their masks; see `FixedSizeDetector`."""
        maps = self.pyramid(image)
        found = self.detect(maps, sizes)
        if not self.has_masks:
            return tuple(found)
        rois = to_rois(found.boxes, found.counts)
        masks = self.roi_heads.draw_masks(maps, rois, found.labels.flatten())
        return (*found, masks.reshape(*found.labels.shape, *masks.shape[1:]))

    def losses(self, images: ImageBatch, truth: Sequence[Truth]) -> dict[str, Tensor]:
        """The losses of a padded batch; see `RPN.losses` and `RoIHeads.losses`."""
        settings = self.training_settings
        maps = self.pyramid(images.image)
        outputs = self.rpn(maps)
        proposals = self.rpn.propose(outputs, images.sizes, settings.limits)
        boxes = [x[:count] for x, count in zip(proposals.boxes, proposals.counts.tolist(), strict=True)]
        return {
            **self.rpn.losses(outputs, images, [objects.boxes for objects in truth], settings.rpn),
            **self.roi_heads.losses(maps, boxes, images, truth, settings.stages),
        }

    def reset_classifier(self, num_classes: int) -> None:
        """Replace what depends on the classes by freshly initialised layers."""
        reference = next(self.parameters())
        for head in (*self.roi_heads.box_heads, *self.roi_heads.mask_heads):
            head.reset_classifier(num_classes)
            head.to(device=reference.device, dtype=reference.dtype)

    def _found(self, batch: ImageBatch) -> list[dict[str, Tensor]]:
        maps = self.pyramid(batch.image)
        detections = self.detect(maps, batch.sizes)
        results = detections.of_each_image()
        if self.has_masks:
            rois = join_rois([result["boxes"] for result in results])
            drawn = self.roi_heads.draw_masks(maps, rois, torch.cat([result["labels"] for result in results]))
            for index, (result, probabilities) in enumerate(
                zip(results, torch.split(drawn, detections.counts.tolist()), strict=True)
            ):
                result["masks"] = paste_masks(probabilities, result["boxes"], batch.size(index))
        return results
