"""Whether representations collapse: how many directions they use, and how far they spread."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from internimage.tasks.training.distributed import Processes


class Indicators(NamedTuple):
    """Both near 0 (of the rank: 1) mean collapse."""

    effective_rank: float  # exp of the entropy of the singular values (Roy and Vetterli 2007), 1 to min(N - 1, D)
    std: float  # of representations of length sqrt(D), mean over the dimensions, 0 to 1


def indicators(representation: Tensor, processes: Processes) -> Indicators:
    """Of the representations [N, D] of all processes, brought to one length.

    Both come from sums over the samples, so that representations need not be gathered.
    """
    x = F.normalize(representation.detach().double(), dim=1) * representation.shape[1] ** 0.5
    count = len(x) * processes.world_size
    mean = processes.sum(x.sum(0)) / count
    centred = x - mean
    covariance = processes.sum(centred.T @ centred) / count
    singular = torch.linalg.eigvalsh(covariance).clamp(min=0).sqrt()
    shares = singular / singular.sum().clamp(min=torch.finfo(x.dtype).tiny)
    rank = torch.special.entr(shares).sum().exp()
    return Indicators(float(rank), float(covariance.diagonal().sqrt().mean()))
