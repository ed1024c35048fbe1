"""Contrastive denoising: further queries in training, which begin at the true objects (DINO, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from internimage.tasks.detection.boxes import box_sides, to_centres


@dataclass(frozen=True)
class DenoisingSettings:
    """How many queries there are, and how far from the truth they begin.

    Attributes:
        queries: of an image, about; half of them are too far from an object to belong to it.
        label_noise: twice the probability of another label.
        box_noise: by which a corner may move, in halves of the box's sides; twice that for those too far away.
    """

    queries: int = 100
    label_noise: float = 0.5
    box_noise: float = 1.0


class Noise(NamedTuple):
    """What is drawn for T objects in R versions each.

    Attributes:
        chance: [R, T], uniform from 0 to 1: whether the label changes.
        labels: [R, T], uniform over the classes: what it changes to.
        signs: [R, T, 4], -1 or 1: where the sides of a box move.
        sizes: [R, T, 4], uniform from 0 to 1: how far.
    """

    chance: Tensor
    labels: Tensor
    signs: Tensor
    sizes: Tensor


class Queries(NamedTuple):
    """The denoising queries of a batch: in each image `groups` times a near one for each object, then a far one.

    Images with fewer objects than the largest number have padding at the end of the near and of the far ones.

    Attributes:
        labels: [N, P], noisy; -1 as padding.
        boxes: [N, P, 4], noisy; centre x and y, width and height, from 0 to 1 across the image without padding.
        groups: how many.
    """

    labels: Tensor
    boxes: Tensor
    groups: int

    def matches(self, objects: int) -> tuple[Tensor, Tensor]:
        """Indices of the near queries of an image with so many objects, increasing, and of their objects."""
        device = self.labels.device
        of_group = self.labels.shape[1] // self.groups
        chosen = torch.arange(objects, device=device).repeat(self.groups)
        first = torch.arange(self.groups, device=device).repeat_interleave(objects) * of_group
        return first + chosen, chosen


def noisy_queries(
    labels: Sequence[Tensor], boxes: Sequence[Tensor], num_classes: int, settings: DenoisingSettings
) -> Queries:
    """Draw the denoising queries of a batch.

    Args:
        labels: [G_i] of each image.
        boxes: [G_i, 4] of each image, corners from 0 to 1 across the image without padding.
        num_classes: that labels are drawn from.
        settings: of the noise.
    """
    counts = [len(x) for x in labels]
    largest = max(counts)
    groups = max(1, settings.queries // max(1, largest))
    known_labels, known_boxes = torch.cat(list(labels)), torch.cat(list(boxes))
    noise = draw_noise(2 * groups, known_labels, num_classes)
    changed = torch.where(noise.chance < settings.label_noise / 2, noise.labels, known_labels)
    far = torch.arange(2 * groups, device=known_boxes.device).view(-1, 1, 1) % 2
    half = box_sides(known_boxes).repeat(1, 2) / 2
    moved = known_boxes + (noise.sizes + far) * noise.signs * half * settings.box_noise
    centred = to_centres(moved.clamp(0, 1))
    return Queries(
        torch.stack([_padded(x, largest, -1) for x in torch.split(changed, counts, dim=1)]),
        torch.stack([_padded(x, largest, 0.5) for x in torch.split(centred, counts, dim=1)]),
        groups,
    )


def draw_noise(versions: int, labels: Tensor, num_classes: int) -> Noise:
    """See `Noise`; `labels` [T] are those of the objects."""
    shape, device = (versions, len(labels)), labels.device
    return Noise(
        torch.rand(shape, device=device),
        torch.randint(num_classes, shape, device=device),
        torch.randint(2, (*shape, 4), device=device) * 2 - 1,
        torch.rand((*shape, 4), device=device),
    )


def attention_mask(queries: Queries, others: int) -> Tensor:
    """Where each query may look: denoising queries into their group and at all `others`, which see but themselves.

    Returns:
        [P + others, P + others] of bool.
    """
    count = queries.labels.shape[1]
    of_group = max(1, count // queries.groups)
    group = torch.arange(count + others, device=queries.labels.device) // of_group
    group[count:] = -1
    return (group.unsqueeze(1) == group) | (group == -1)


def _padded(x: Tensor, length: int, value: float) -> Tensor:
    """[R, G, ...] -> [R * length, ...]."""
    padding = x.new_full((x.shape[0], length - x.shape[1], *x.shape[2:]), value)
    return torch.cat((x, padding), dim=1).flatten(0, 1)
