"""The momentum copy of the encoder: a slow average of its weights, which makes the targets (BYOL, arXiv 2006.07733)."""

from __future__ import annotations

import math

from torch import nn

from internimage.tasks.training.averaging import follow, tensors_of


def momentum_at(step: int, total: int, start: float, end: float = 1.0) -> float:
    """What the copy keeps of itself after a step: half a cosine from `start` to `end`, steps count from 0."""
    return end - (end - start) * (1 + math.cos(math.pi * step / total)) / 2


def follow_encoder(copy: nn.Module, encoder: nn.Module, momentum: float) -> None:
    """momentum * copy + (1 - momentum) * encoder, for all that the copy has: weights and batch statistics."""
    follow(tensors_of(copy), tensors_of(encoder), momentum)
