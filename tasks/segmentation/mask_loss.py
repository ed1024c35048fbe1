"""The loss of Mask2Former: queries are matched to the classes of an image, all at sampled points (section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from internimage.tasks.layers.matching import match, mean_over_devices
from internimage.tasks.layers.points import random_points, sample_points, uncertain_points
from internimage.tasks.segmentation.class_names import IGNORED
from internimage.tasks.segmentation.losses import check_labels
from internimage.tasks.segmentation.mask2former import MaskPrediction

CLASS_WEIGHT = 2.0
MASK_WEIGHT = 5.0
DICE_WEIGHT = 5.0
NO_OBJECT_WEIGHT = 0.1  # of a query that is matched with nothing, in the class loss


class Target(NamedTuple):
    """The classes of one image, and where each is."""

    classes: Tensor  # [T]
    masks: Tensor  # [T, H, W], 0 or 1


def mask_loss(predictions: Sequence[MaskPrediction], labels: Tensor, *, points: int = 12544) -> dict[str, Tensor]:
    """Class, mask and dice loss of every layer's predictions, in float32 at least; the total loss is their sum.

    Args:
        predictions: of `Mask2FormerHead`.
        labels: [N, H, W] of an integer type, 255 where a pixel belongs to no class.
        points: at which masks are compared.

    Returns:
        The weighted terms: "class", "mask" and "dice" of the last layer, "d0.class", ... of the earlier ones.

    Raises:
        ValueError: labels of another shape or for classes that the head lacks.
    """
    check_labels(labels, len(predictions[0].class_logits))
    with torch.autocast(labels.device.type, enabled=False):  # sums over all points are too large for float16
        predictions = [MaskPrediction(*map(_precise, prediction)) for prediction in predictions]
        targets = [to_target(image_labels, predictions[0]) for image_labels in labels]
        prefixes = [*(f"d{i}." for i in range(len(predictions) - 1)), ""]
        return {
            prefix + name: loss
            for prefix, prediction in zip(prefixes, predictions, strict=True)
            for name, loss in _losses(prediction, targets, points).items()
        }


def to_target(labels: Tensor, prediction: MaskPrediction) -> Target:
    """Labels of an image [H, W] -> its classes, increasing, and their masks.

    Raises:
        ValueError: a class that the prediction has no logit for.
    """
    classes: Tensor = torch.unique(labels)
    classes = classes[classes != IGNORED].long()
    num_classes = prediction.class_logits.shape[-1] - 1
    if ((classes < 0) | (classes >= num_classes)).any():
        raise ValueError(
            f"expected labels from 0 to {num_classes - 1}, or {IGNORED} for no class, got {classes.tolist()}; create "
            "the model with more num_classes, or set the surplus labels to 255"
        )
    return Target(classes, (labels == classes.view(-1, 1, 1)).to(prediction.mask_logits.dtype))


@torch.no_grad()
def match_queries(class_logits: Tensor, mask_logits: Tensor, target: Target, points: int) -> tuple[Tensor, Tensor]:
    """Match the queries of one image with its classes.

    Args:
        class_logits: [Q, num_classes + 1].
        mask_logits: [Q, H, W].
        target: of the image.
        points: at which masks are compared, the same for all masks.

    Returns:
        Indices of the matched queries, increasing, and of their targets.
    """
    where = random_points(1, points, mask_logits)
    predicted, wanted = (sample_points(masks.unsqueeze(0), where)[0] for masks in (mask_logits, target.masks))
    return match(matching_cost(class_logits, target.classes, predicted, wanted))


def matching_cost(class_logits: Tensor, classes: Tensor, predicted: Tensor, wanted: Tensor) -> Tensor:
    """What it costs to match each query with each target, [Q, T].

    Args:
        class_logits: [Q, num_classes + 1].
        classes: [T].
        predicted: [Q, P], logits of the masks at points.
        wanted: [T, P], the targets' masks there, from 0 to 1.
    """
    class_cost = -class_logits.softmax(-1)[:, classes]
    points = predicted.shape[1]
    # Cross entropy of every pair in two products: log(1 + e^-x) where the target is 1, log(1 + e^x) where it is 0.
    mask_cost = (F.softplus(-predicted) @ wanted.T + F.softplus(predicted) @ (1 - wanted).T) / points
    inside = predicted.sigmoid()
    overlap = 2 * inside @ wanted.T + 1
    dice_cost = 1 - overlap / (inside.sum(-1).unsqueeze(1) + wanted.sum(-1) + 1)
    return CLASS_WEIGHT * class_cost + MASK_WEIGHT * mask_cost + DICE_WEIGHT * dice_cost


def _losses(prediction: MaskPrediction, targets: Sequence[Target], points: int) -> dict[str, Tensor]:
    class_logits, mask_logits = prediction
    matches = [
        match_queries(classes, masks, target, points)
        for classes, masks, target in zip(class_logits, mask_logits, targets, strict=True)
    ]
    logits = torch.cat([masks[queries] for masks, (queries, _) in zip(mask_logits, matches, strict=True)])
    masks = torch.cat([target.masks[chosen] for target, (_, chosen) in zip(targets, matches, strict=True)])
    where = uncertain_points(logits.unsqueeze(1), points)
    predicted, wanted = (sample_points(x.unsqueeze(1), where).squeeze(1) for x in (logits, masks))
    count = mean_over_devices(len(masks), logits)
    return {
        "class": CLASS_WEIGHT * _class_loss(class_logits, targets, matches),
        "mask": MASK_WEIGHT * F.binary_cross_entropy_with_logits(predicted, wanted, reduction="sum") / (count * points),
        "dice": DICE_WEIGHT * _dice_loss(predicted.sigmoid(), wanted) / count,
    }


def _class_loss(class_logits: Tensor, targets: Sequence[Target], matches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Cross entropy; unmatched queries should say "no object", with little weight."""
    no_object = class_logits.shape[-1] - 1
    classes = torch.full(class_logits.shape[:2], no_object, device=class_logits.device)
    for row, target, (queries, chosen) in zip(classes, targets, matches, strict=True):
        row[queries] = target.classes[chosen]
    weights = class_logits.new_ones(no_object + 1)
    weights[no_object] = NO_OBJECT_WEIGHT
    return F.cross_entropy(class_logits.flatten(0, 1), classes.flatten(), weights)


def _dice_loss(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Sum over the masks [M, P] of 1 - (2 |A n B| + 1) / (|A| + |B| + 1)."""
    overlap = 2 * (predicted * wanted).sum(-1) + 1
    return (1 - overlap / (predicted.sum(-1) + wanted.sum(-1) + 1)).sum()


def _precise(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
