"""DINO: a detector that finds each object by one query (arXiv 2203.03605), on one backbone or a composite one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from internimage.renames import BACKBONE_TABLE, COMPOSITE_TABLE, Renames, Row, prefixed
from internimage.tasks.detection.batch import ImageBatch, Truth, pad_images, read_targets
from internimage.tasks.detection.boxes import clip_boxes, image_sides, to_corners
from internimage.tasks.detection.channel_mapper import ChannelMapper
from internimage.tasks.detection.detections import Detections
from internimage.tasks.detection.dino_decoder import (
    DINODecoder,
    Prediction,
    Predictions,
    QuerySelection,
    class_branch,
    inverse_sigmoid,
)
from internimage.tasks.detection.dino_denoising import DenoisingSettings, Queries, attention_mask, noisy_queries
from internimage.tasks.detection.dino_encoder import DINOEncoder
from internimage.tasks.detection.dino_loss import detection_losses
from internimage.tasks.detection.suppression import at_least_float32

# How the official training treats some parameters, by their names here.
CLASSIFIERS = ("classifier", "cls_branches.", "label_embed")  # parts of names that depend on the classes, official too
LOWEST = ("encoder.level_embed",)  # learns as slowly as the stem where learning rates fall from layer to layer
OFFSETS = ("attention.offsets.",)  # without weight decay; Objects365 models learn them 1000 times more slowly


class DINO(nn.Module):
    """A backbone, its maps at one width, an encoder of them, and queries that become boxes with classes.

    It is called as `MaskRCNN` is. In evaluation mode each image gets the `per_image` best pairs of a query and a
    class, however low their scores are. The losses are "class", "box" and "giou" of the last layer, with "d0.", ... of
    the earlier ones, with "interm_" of the boxes that the queries begin with, and with "dn_" of the denoising queries.

    Args:
        backbone: image -> maps, finest first, of which the last three are used, strides 8 to 32.
        in_channels: of these three.
        num_classes: of the objects.
        channels: of maps and queries, a multiple of 32.
        heads: of all attentions.
        hidden_channels: of the MLPs.
        encoder_layers: how many.
        decoder_layers: how many.
        queries: objects of an image at most.
        per_image: detections of an image, less where queries times classes are fewer.
        denoising: settings of the queries that are added in training.
    """

    has_masks = False

    def __init__(
        self,
        backbone: nn.Module,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 256,
        heads: int = 8,
        hidden_channels: int = 2048,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        queries: int = 900,
        per_image: int = 300,
        denoising: DenoisingSettings | None = None,
    ) -> None:
        super().__init__()
        self.per_image = per_image
        self.denoising = DenoisingSettings() if denoising is None else denoising
        self.backbone = backbone
        self.neck = ChannelMapper(in_channels, channels)
        self.encoder = DINOEncoder(channels, heads, hidden_channels, layers=encoder_layers)
        self.selection = QuerySelection(channels, num_classes, queries)
        self.decoder = DINODecoder(channels, num_classes, heads, hidden_channels, layers=decoder_layers)
        self.query_embed = nn.Parameter(torch.randn(queries, channels))
        self.label_embed = nn.Parameter(torch.randn(num_classes, channels))

    @property
    def num_classes(self) -> int:
        return len(self.label_embed)

    @property
    def renames(self) -> Renames:
        """The official names of the parameters."""
        return Renames(
            (
                *prefixed(BACKBONE_TABLE, "backbone.", "backbone."),
                *prefixed(ChannelMapper.renames, "neck.", "neck."),
                *self._head_renames,
            )
        )

    @property
    def _head_renames(self) -> tuple[Row, ...]:
        layers = len(self.decoder.layers)  # the branches of the selection come after those of the decoder
        rows = (
            *prefixed(DINOEncoder.renames, "encoder.", "transformer."),
            *prefixed(QuerySelection.renames, "selection.", ""),
            ("selection.classifier.{p}", f"cls_branches.{layers}.{{p}}"),
            ("selection.box_branch.{j}.{p}", f"reg_branches.{layers}.{{j}}.{{p}}"),
            *prefixed(DINODecoder.renames, "decoder.", ""),
            ("query_embed", "transformer.query_embed.weight"),
            ("label_embed", "label_embedding.weight"),
        )
        return prefixed(rows, "", "bbox_head.")

    def forward(self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None) -> Any:
        batch = pad_images(images)
        if not self.training:
            return self.detect(batch.image, batch.sizes).of_each_image()
        return self.losses(batch, read_targets(targets, batch, self.num_classes, self.has_masks))

    def find(self, image: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """See `FixedSizeDetector`."""
        return tuple(self.detect(image, sizes))

    def detect(self, image: Tensor, sizes: Tensor) -> Detections:
        """The objects in padded images [N, 3, H, W] of these sizes [N, 2], height and width without padding."""
        predictions = self.predict(self.maps(image), image.shape[2:], sizes)
        return best_detections(predictions.layers[-1], sizes, self.per_image)

    def maps(self, image: Tensor) -> list[Tensor]:
        """Image [N, 3, H, W] -> the last three maps of the backbone."""
        maps: list[Tensor] = self.backbone(image)[-3:]
        return maps

    def predict(
        self, maps: Sequence[Tensor], image_size: Sequence[int], sizes: Tensor, noisy: Queries | None = None
    ) -> Predictions:
        """What all queries say after each layer.

        Args:
            maps: of the backbone.
            image_size: height and width of the padded images.
            sizes: [N, 2], those of each image without padding.
            noisy: denoising queries, which come before the others.
        """
        memory = self.encoder(self.neck(maps), image_size, sizes)
        selected = self.selection(memory)
        boxes = selected.boxes.detach()
        queries = self.query_embed[: boxes.shape[1]].expand(boxes.shape[0], -1, -1)
        mask = None
        if noisy is not None:
            mask = attention_mask(noisy, boxes.shape[1])
            known = noisy.labels.unsqueeze(-1) >= 0
            queries = torch.cat((self.label_embed[noisy.labels.clamp(min=0)] * known, queries), dim=1)
            boxes = torch.cat((inverse_sigmoid(noisy.boxes).sigmoid(), boxes), dim=1)
        return Predictions(selected, self.decoder(queries, boxes, memory, mask))

    def losses(self, images: ImageBatch, truth: Sequence[Truth]) -> dict[str, Tensor]:
        """The losses of a padded batch, in float32 at least; their sum is to be minimised."""
        noisy = self.noisy_queries(truth, images.sizes)
        predictions = self.predict(self.maps(images.image), images.image.shape[2:], images.sizes, noisy)
        return detection_losses(predictions, truth, images.sizes, noisy)

    def noisy_queries(self, truth: Sequence[Truth], sizes: Tensor) -> Queries:
        """Draw the denoising queries of images of these sizes [N, 2]."""
        boxes = [objects.boxes / image_sides(size, objects.boxes) for objects, size in zip(truth, sizes, strict=True)]
        return noisy_queries([objects.labels for objects in truth], boxes, self.num_classes, self.denoising)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace what depends on the classes by freshly initialised layers."""
        reference = self.label_embed
        channels = reference.shape[1]
        self.decoder.reset_classifier(num_classes)
        self.selection.classifier = class_branch(channels, num_classes)
        self.label_embed = nn.Parameter(torch.randn(num_classes, channels))
        self.to(device=reference.device, dtype=reference.dtype)


class CompositeDINO(DINO):
    """DINO on CB-InternImage: in training the assisting backbone's maps pass the same heads, with half the weight.

    The names of the losses of the assisting backbone end with "0_w0.5", those of the lead with "1". In evaluation only
    the maps of the lead are looked at.

    Args: those of `DINO`; the backbone returns two lists of maps, as `CompositeInternImage` does.
    """

    @property
    def renames(self) -> Renames:
        return Renames(
            (
                *prefixed(COMPOSITE_TABLE, "backbone.", "backbone."),
                *prefixed(ChannelMapper.renames, "neck.", "neck.0."),
                *self._head_renames,
            )
        )

    def maps(self, image: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.backbone(image)[1]
        return maps

    def losses(self, images: ImageBatch, truth: Sequence[Truth]) -> dict[str, Tensor]:
        assisting, lead = self.backbone(images.image)
        maps = [torch.cat(level) for level in zip(assisting, lead, strict=True)]
        count, sizes = len(truth), images.sizes.repeat(2, 1)
        noisy = self.noisy_queries([*truth, *truth], sizes)
        both = self.predict(maps, images.image.shape[2:], sizes, noisy)
        losses: dict[str, Tensor] = {}
        for suffix, weight, part in (("0_w0.5", 0.5, slice(count)), ("1", 1.0, slice(count, None))):
            of_part = detection_losses(both.part(part), truth, images.sizes, noisy)
            losses |= {name + suffix: weight * loss for name, loss in of_part.items()}
        return losses


def best_detections(prediction: Prediction, sizes: Tensor, count: int) -> Detections:
    """The `count` best pairs of a query and a class, of images of these sizes [N, 2]; no box suppresses another."""
    logits, boxes = (at_least_float32(x) for x in prediction)
    num_classes = logits.shape[2]
    scores, chosen = logits.sigmoid().flatten(1).topk(min(count, logits.shape[1] * num_classes))
    boxes = boxes.gather(1, (chosen // num_classes).unsqueeze(-1).expand(-1, -1, 4))
    sizes = sizes.unsqueeze(1)
    corners = clip_boxes(to_corners(boxes) * image_sides(sizes, boxes), sizes)
    counts = torch.full_like(sizes[:, 0, 0], scores.shape[1])
    return Detections(corners, scores, chosen % num_classes, counts)
