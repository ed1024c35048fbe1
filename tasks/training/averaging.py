"""The exponential moving average of a model's weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Keeps decay * average + (1 - decay) * weights of all parameters and buffers, step by step (timm's `ModelEma`).

    Sharded weights give a sharded average. Whole numbers (counters of batches) are copied.

    Args:
        model: whose weights; the average starts with what they are now.
        decay: 0.9999 forgets in about 10000 steps.
        warmup: the decay of step t is decay * (1 - exp(-(1 + t) / warmup)), so that the first weights, which are
            random, are soon forgotten; 0: it is the same from the start.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: int = 0) -> None:
        self.decay, self.warmup = decay, warmup
        self.values = {name: tensor.detach().clone() for name, tensor in tensors_of(model).items()}

    def update(self, model: nn.Module, step: int) -> None:
        """Take the weights after a step in; steps count from 0."""
        decay = self.decay * (1 - math.exp(-(1 + step) / self.warmup)) if self.warmup else self.decay
        follow(self.values, tensors_of(model), decay)

    @contextmanager
    @torch.no_grad()
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """The model has the average as its weights while the block runs."""
        tensors = tensors_of(model)
        own = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            tensor.copy_(self.values[name])
        try:
            yield
        finally:
            for name, tensor in tensors.items():
                tensor.copy_(own[name])


@torch.no_grad()
def follow(averages: Mapping[str, Tensor], tensors: Mapping[str, Tensor], decay: float) -> None:
    """decay * average + (1 - decay) * tensor, in place, for each average; whole numbers are copied."""
    pairs = [(average, tensors[name].detach()) for name, average in averages.items()]
    by_type: dict[type, list[tuple[Tensor, Tensor]]] = {}  # sharded tensors apart from others
    for average, tensor in pairs:
        if average.is_floating_point():
            by_type.setdefault(type(average), []).append((average, tensor))
        else:
            average.copy_(tensor)
    for group in by_type.values():
        torch._foreach_lerp_([average for average, _ in group], [tensor for _, tensor in group], 1 - decay)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return dict(model.named_parameters()) | dict(model.named_buffers())
