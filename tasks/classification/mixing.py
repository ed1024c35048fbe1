"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) of a batch with itself, reversed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Mixed:
    """A mixed batch: of image i, `share` is from sample i and the rest from sample N - 1 - i."""

    images: Tensor  # [N, 3, H, W]
    share: float


def mix(images: Tensor, rng: np.random.Generator, *, mixup: float, cutmix: float) -> Mixed:
    """Mix a batch in one of the two ways, or in neither where both are 0.

    Args:
        images: [N, 3, H, W].
        rng: decides on the way, the share and the place.
        mixup: alpha of the Beta(alpha, alpha) distribution of shares; 0 for none.
        cutmix: the same for the area that is kept; 0 for none. With both, each is taken half of the time.
    """
    if not mixup and not cutmix:
        return Mixed(images, 1.0)
    cuts = bool(cutmix) and (not mixup or rng.random() < 0.5)
    alpha = cutmix if cuts else mixup
    share = float(rng.beta(alpha, alpha))
    if not cuts:
        return Mixed(images * share + images.flip(0) * (1 - share), share)
    rows, columns = _box(images.shape[2], images.shape[3], share, rng)
    mixed = images.clone()
    mixed[:, :, rows, columns] = images.flip(0)[:, :, rows, columns]
    cut = (rows.stop - rows.start) * (columns.stop - columns.start) / (images.shape[2] * images.shape[3])
    return Mixed(mixed, 1 - cut)


def mixed_cross_entropy(logits: Tensor, labels: Tensor, share: float, label_smoothing: float) -> Tensor:
    """Mean cross entropy against the shares of both samples, smoothed.

    Args:
        logits: [N, classes].
        labels: [N], before mixing.
        share: see `Mixed`.
        label_smoothing: of the target, spread over all classes.
    """
    first = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if share == 1.0:
        return first
    second = F.cross_entropy(logits, labels.flip(0), label_smoothing=label_smoothing)
    return share * first + (1 - share) * second


def _box(height: int, width: int, share: float, rng: np.random.Generator) -> tuple[slice, slice]:
    """A box of the image's aspect ratio that covers 1 - share, around a random place, cut off at the borders."""
    side = math.sqrt(1 - share)

    def interval(length: int) -> slice:
        middle, half = int(rng.integers(length)), int(length * side) // 2
        return slice(max(0, middle - half), min(length, middle + half))

    return interval(height), interval(width)
