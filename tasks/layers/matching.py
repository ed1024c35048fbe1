"""One-to-one matching of predictions and targets (DETR, arXiv 2005.12872, section 3.1)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from scipy.optimize import linear_sum_assignment
from torch import Tensor

_MUCH = 1e9


def match(cost: Tensor) -> tuple[Tensor, Tensor]:
    """The assignment of least total cost.

    Args:
        cost: [predictions, targets]. Values that are not finite count as much: they come from predictions that are not
            finite, whose loss is not either, so that the training loop leaves their step out.

    Returns:
        Indices of the matched predictions, increasing, and of their targets; on the device of `cost`.
    """
    finite = cost.detach().cpu().double().nan_to_num(nan=_MUCH, posinf=_MUCH, neginf=-_MUCH)
    predictions, targets = linear_sum_assignment(finite.numpy())
    return torch.from_numpy(predictions).to(cost.device), torch.from_numpy(targets).to(cost.device)


def mean_over_devices(count: float, like: Tensor) -> Tensor:
    """The mean of a number over the processes of a distributed run, at least 1: a loss's divisor."""
    mean = torch.tensor(float(count), device=like.device)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(mean)
        mean /= dist.get_world_size()
    return mean.clamp(min=1.0)
