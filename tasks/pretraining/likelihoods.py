"""How well the representation of a target is predicted: the likelihood terms, and what forbids collapse.

Mutual information is I(prediction; target) = H(target) - H(target | prediction), and the negative log-likelihood of any
predictive distribution bounds the last term (arXiv 2211.09807, after Barber and Agakov 2003).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from internimage.tasks.pretraining.gathering import add_up, gather
from internimage.tasks.training.distributed import Processes

_LEAST_VARIANCE = 1e-4  # below the root, whose gradient is infinite at 0


class Likelihood(NamedTuple):
    """A term of the loss, and what it tells of the mutual information."""

    loss: Tensor  # [], nats: mean over the valid samples of all processes, when the processes average theirs
    information: Tensor  # [], nats: lower bound of the mutual information


def boltzmann(
    prediction: Tensor,
    target: Tensor,
    scale: Tensor | float,
    processes: Processes,
    *,
    valid: Tensor | None = None,
    keys: Tensor | None = None,
    symmetric: bool = False,
) -> Likelihood:
    """Softmax cross-entropy of the right target among those of all processes; scores are scaled cosines.

    With K targets to choose from, log K - loss is a lower bound of the mutual information (InfoNCE, arXiv 1807.03748).

    Args:
        prediction: [N, D].
        target: [N, D], with a gradient where the targets learn.
        scale: of the cosines, the inverse of the temperature.
        processes: whose targets are negatives too; each has N.
        valid: [N] of bool, which samples have a target at all; None: all.
        keys: [N] of int, equal where two targets are the same thing, which then is no negative of the other.
        symmetric: also choose the right prediction for each target, as CLIP does (arXiv 2103.00020), and take the mean.
    """
    prediction, target = F.normalize(_precise(prediction), dim=1), F.normalize(_precise(target), dim=1)
    valid = _all(target) if valid is None else valid
    own = torch.arange(len(target), device=target.device) + processes.rank * len(target)
    excluded = ~gather(valid, processes)[None].expand(len(target), -1)
    if keys is not None:
        excluded = excluded | (keys[:, None] == gather(keys, processes)[None])
    excluded = excluded.scatter(1, own[:, None], False)

    def choose(one: Tensor, others: Tensor) -> Tensor:
        logits = scale * (one @ gather(others, processes).T)
        return F.cross_entropy(logits.masked_fill(excluded, -math.inf), own, reduction="none")

    forward = choose(prediction, target)
    with torch.no_grad():
        choices = torch.log((~excluded).sum(1).to(forward.dtype))
        information = mean_of_valid(choices - forward, valid, processes)
    losses = (forward + choose(target, prediction)) / 2 if symmetric else forward
    return Likelihood(mean_of_valid(losses, valid, processes), information)


def gaussian(prediction: Tensor, target: Tensor, processes: Processes, *, valid: Tensor | None = None) -> Tensor:
    """Half the mean squared error: -log of a Gaussian of variance D around the prediction, less a constant.

    Args:
        prediction: [N, D].
        target: [N, D].
        processes: whose samples the mean is over, see `mean_of_valid`.
        valid: [N] of bool, which samples have a target at all; None: all.
    """
    losses = (_precise(prediction) - _precise(target)).square().mean(1) / 2
    return mean_of_valid(losses, _all(losses) if valid is None else valid, processes)


class Spread(NamedTuple):
    """By how much the entropy of Gaussian representations falls short; both are 0 where it is largest."""

    variance: Tensor  # [], what standard deviations lack to 1, mean over the dimensions
    covariance: Tensor  # [], sum of the squared covariances of different dimensions, by the number of dimensions


def spread(representation: Tensor, processes: Processes, *, valid: Tensor | None = None) -> Spread:
    """Variance and decorrelation of representations over all processes (VICReg, arXiv 2105.04906, eq. 1 to 4).

    The entropy of a Gaussian is that of its dimensions, which grows with their variance, less what they have in common.

    Args:
        representation: [N, D], of unit variance over the dimensions.
        processes: whose samples count, too.
        valid: [N] of bool, which samples count; None: all.
    """
    x = _precise(representation)
    weight = (_all(x) if valid is None else valid).to(x.dtype)[:, None]
    count = processes.sum(weight.sum())
    mean = add_up((weight * x).sum(0), processes) / count.clamp(min=1)
    centred = weight * (x - mean)
    covariance = add_up(centred.T @ centred, processes) / (count - 1).clamp(min=1)
    variance = covariance.diagonal()
    short = F.relu(1 - (variance + _LEAST_VARIANCE).sqrt()).mean()
    return Spread(short, (covariance.square().sum() - variance.square().sum()) / x.shape[1])


def mean_of_valid(values: Tensor, valid: Tensor, processes: Processes) -> Tensor:
    """The share of this process in the mean over the valid values of all: the mean of the shares is that mean.

    Args:
        values: [N].
        valid: [N] of bool; where none is valid in any process the result is 0.
        processes: whose mean it is.
    """
    count = processes.sum(valid.sum())
    total = torch.where(valid, values, 0).sum()
    return total * processes.world_size / count.clamp(min=1)


def _precise(x: Tensor) -> Tensor:
    """In float32 at least: likelihoods are not computed in half types."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _all(x: Tensor) -> Tensor:
    return torch.ones(len(x), dtype=torch.bool, device=x.device)
