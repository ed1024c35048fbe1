"""Which boxes an image's losses count: a random choice, so that background doesn't drown the objects."""

from __future__ import annotations

import torch
from torch import Tensor

from internimage.tasks.detection.assign import BACKGROUND


def sample(assigned: Tensor, number: int, positive_share: float) -> tuple[Tensor, Tensor]:
    """Choose at random among the boxes that learn an object and among those that learn background.

    Args:
        assigned: [K], from `Assigner.assign`.
        number: of boxes wanted in all.
        positive_share: of `number`, that objects may have at most; background fills the rest.

    Returns:
        Indices of the positive and of the negative boxes, increasing.
    """
    positive = _choose((assigned >= 0).nonzero().squeeze(1), int(number * positive_share))
    negative = _choose((assigned == BACKGROUND).nonzero().squeeze(1), number - len(positive))
    return positive, negative


def _choose(indices: Tensor, number: int) -> Tensor:
    if len(indices) <= number:
        return indices
    # The CPU's generator, so that a seed gives the same choice on every device.
    return indices[torch.randperm(len(indices))[:number].sort().values.to(indices.device)]
