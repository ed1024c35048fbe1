"""What DINO is trained by: queries are matched with the objects one to one (arXiv 2005.12872, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from internimage.tasks.detection.batch import Truth
from internimage.tasks.detection.boxes import generalized_iou, image_sides, to_centres, to_corners
from internimage.tasks.detection.dino_decoder import Prediction, Predictions
from internimage.tasks.detection.dino_denoising import Queries
from internimage.tasks.detection.suppression import at_least_float32
from internimage.tasks.layers.matching import match, mean_over_devices

CLASS_WEIGHT = 1.0
CLASS_COST = 2.0
L1_WEIGHT = 5.0  # of the loss and the cost
GIOU_WEIGHT = 2.0  # of the loss and the cost
ALPHA = 0.25  # of the focal loss: weight of the right class, to 1 - ALPHA for the others
GAMMA = 2.0  # of the focal loss
LEAST_PROBABILITY = 1e-12  # in the class cost's logarithms

Match = tuple[Tensor, Tensor]  # indices of queries, increasing, and of their objects


def detection_losses(
    predictions: Predictions, truth: Sequence[Truth], sizes: Tensor, noisy: Queries
) -> dict[str, Tensor]:
    """The losses of all sets of queries; see `DINO` for their names.

    Args:
        predictions: of the queries.
        truth: the objects of each image.
        sizes: [N, 2], height and width of the images, pixels.
        noisy: the denoising queries among them.
    """
    first = noisy.labels.shape[1]
    near = [noisy.matches(len(objects.labels)) for objects in truth]
    prefixes = [*(f"d{i}." for i in range(len(predictions.layers) - 1)), ""]
    matched = {"interm_": _precise(predictions.selected)}
    losses: dict[str, Tensor] = {}
    with torch.autocast(sizes.device.type, enabled=False):  # sums over all queries are too large for float16
        for prefix, layer in zip(prefixes, predictions.layers, strict=True):
            layer = _precise(layer)
            matched[prefix] = layer.part(queries=slice(first, None))
            of_noisy = set_losses(layer.part(queries=slice(first)), truth, sizes, near)
            losses |= {f"{prefix}dn_{name}": loss for name, loss in of_noisy.items()}
        for prefix, prediction in matched.items():
            matches = [match_queries(*x) for x in zip(*prediction, truth, sizes, strict=True)]
            of_set = set_losses(prediction, truth, sizes, matches)
            losses |= {prefix + name: loss for name, loss in of_set.items()}
    return losses


def set_losses(
    prediction: Prediction, truth: Sequence[Truth], sizes: Tensor, matches: Sequence[Match]
) -> dict[str, Tensor]:
    """Class, box and GIoU loss of one set of queries, each by the number of matched ones.

    Args:
        prediction: of the queries.
        truth: the objects of each image.
        sizes: [N, 2], height and width of the images, pixels.
        matches: which query of each image should become which object. All others should become none.
    """
    logits, boxes = prediction
    classes = torch.zeros_like(logits)
    for row, objects, (queries, chosen) in zip(classes, truth, matches, strict=True):
        row[queries, objects.labels[chosen]] = 1
    found = torch.cat([row[queries] for row, (queries, _) in zip(boxes, matches, strict=True)])
    wanted = torch.cat(
        [
            to_centres(objects.boxes[chosen] / image_sides(size, objects.boxes))
            for objects, size, (_, chosen) in zip(truth, sizes, matches, strict=True)
        ]
    )
    counts = torch.tensor([len(queries) for queries, _ in matches], device=sizes.device)
    scale = image_sides(sizes.repeat_interleave(counts, dim=0), found)
    count = mean_over_devices(len(found), logits)
    overlap = generalized_iou(to_corners(found) * scale, to_corners(wanted) * scale)
    return {
        "class": CLASS_WEIGHT * focal_loss(logits, classes) / count,
        "box": L1_WEIGHT * (found - wanted).abs().sum() / count,
        "giou": GIOU_WEIGHT * (1 - overlap).sum() / count,
    }


@torch.no_grad()
def match_queries(class_logits: Tensor, boxes: Tensor, objects: Truth, size: Tensor) -> Match:
    """Match the queries of one image with its objects.

    Args:
        class_logits: [Q, num_classes].
        boxes: [Q, 4]; see `Prediction`.
        objects: of the image.
        size: [2], height and width of it.
    """
    return match(matching_cost(class_logits, boxes, objects, size))


def matching_cost(class_logits: Tensor, boxes: Tensor, objects: Truth, size: Tensor) -> Tensor:
    """What it costs to match each query with each object, [Q, G]; see `match_queries`."""
    chance = class_logits.sigmoid()[:, objects.labels]
    right = -(chance + LEAST_PROBABILITY).log() * ALPHA * (1 - chance) ** GAMMA
    wrong = -(1 - chance + LEAST_PROBABILITY).log() * (1 - ALPHA) * chance**GAMMA
    sides = image_sides(size, boxes)
    distance = torch.cdist(boxes, to_centres(objects.boxes / sides), p=1)
    corners = (to_corners(boxes) * sides).unsqueeze(1)
    overlap = generalized_iou(corners, objects.boxes)
    return CLASS_COST * (right - wrong) + L1_WEIGHT * distance - GIOU_WEIGHT * overlap


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the focal losses of independent classes (arXiv 1708.02002); targets are 0 or 1, of the same shape."""
    chance = logits.sigmoid()
    surprise = torch.where(targets > 0, 1 - chance, chance)
    weight = torch.where(targets > 0, ALPHA, 1 - ALPHA) * surprise**GAMMA
    return (weight * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")).sum()


def _precise(prediction: Prediction) -> Prediction:
    return Prediction(*map(at_least_float32, prediction))
