"""What is predicted of an image: the dense representation of a view, its text, its category. Each is usable alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internimage.backbone import InternImage
from internimage.heads import ClipHead, PoolHead
from internimage.tasks.pretraining.decoder import DenseDecoder
from internimage.tasks.pretraining.likelihoods import boltzmann, gaussian, mean_of_valid, spread
from internimage.tasks.pretraining.mixing import Mixture
from internimage.tasks.training.distributed import Processes

NO_LABEL = NO_KEY = -1  # of a sample that has no category, or no text

_FIRST_SCALE, _LARGEST_SCALE = 1 / 0.07, 100.0  # of CLIP (arXiv 2103.00020)

Tensors = Mapping[str, Tensor]


class Term(NamedTuple):
    """What a target adds to the loss, and figures of it for the log."""

    loss: Tensor
    figures: dict[str, Tensor]


class Likelihood(Protocol):
    """How a prediction is compared with its target."""

    def __call__(
        self,
        prediction: Tensor,
        target: Tensor,
        representation: Tensor,
        processes: Processes,
        *,
        valid: Tensor | None = None,
        keys: Tensor | None = None,
    ) -> Term:
        """The negative log-likelihood with what forbids collapse.

        Args:
            prediction: [N, D].
            target: [N, D].
            representation: [R, D], whose entropy is kept up: of the same kind as the targets, with a gradient. As long
                as `valid`, where that is given.
            processes: who share the batch.
            valid: [N], see `boltzmann`.
            keys: [N], see `boltzmann`.
        """


class Boltzmann(nn.Module):
    """`boltzmann` with a learned temperature. Its sum over negatives is what keeps up the entropy of targets."""

    def __init__(self, *, symmetric: bool) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.log_scale = nn.Parameter(torch.full((1,), math.log(_FIRST_SCALE)))

    def forward(
        self,
        prediction: Tensor,
        target: Tensor,
        representation: Tensor,
        processes: Processes,
        *,
        valid: Tensor | None = None,
        keys: Tensor | None = None,
    ) -> Term:
        scale = self.log_scale.exp().clamp(max=_LARGEST_SCALE)
        found = boltzmann(prediction, target, scale, processes, valid=valid, keys=keys, symmetric=self.symmetric)
        return Term(found.loss, {"": found.loss, "_information": found.information})


class Gaussian(nn.Module):
    """`gaussian`, and weights times `spread`. All are first normalised over their dimensions."""

    def __init__(self, variance_weight: float, covariance_weight: float) -> None:
        super().__init__()
        self.weights = (variance_weight, covariance_weight)

    def forward(
        self,
        prediction: Tensor,
        target: Tensor,
        representation: Tensor,
        processes: Processes,
        *,
        valid: Tensor | None = None,
        keys: Tensor | None = None,
    ) -> Term:
        loss = gaussian(prediction, _normalised(target), processes, valid=valid)
        kept = spread(_normalised(representation), processes, valid=valid)
        figures = {"": loss, "_variance": kept.variance, "_covariance": kept.covariance}
        return Term(loss + self.weights[0] * kept.variance + self.weights[1] * kept.covariance, figures)


class DenseTarget(nn.Module):
    """The map that a momentum copy of the encoder makes of a view of the image, at some of its cells.

    Args:
        momentum: the copy.
        decoder: predicts.
        likelihood: compares.
    """

    def __init__(self, momentum: InternImage, decoder: DenseDecoder, likelihood: Likelihood) -> None:
        super().__init__()
        self.momentum = momentum.requires_grad_(False)
        self.decoder = decoder
        self.likelihood = likelihood

    def train(self, mode: bool = True) -> DenseTarget:
        super().train(mode)
        self.momentum.eval()
        return self

    def forward(self, dense: Tensor, mixture: Mixture, batch: Tensors, processes: Processes) -> Term:
        """Predict and compare.

        Args:
            dense: [M, h, w, D], the `dense_map` of mixtures of k images.
            mixture: how they were mixed.
            batch: "target_image" [M * k, 3, S, S] (without it "image"), "relative" [M * k, 2, 2] (see `relative_view`)
                and "cells" [M * k, n], the numbers of the cells to predict.
            processes: who share the batch.
        """
        cells = batch["cells"]
        with torch.no_grad():
            maps = self.momentum.forward_stages(self.momentum.stem(batch.get("target_image", batch["image"])))
            whole = dense_map(self.momentum.head, maps).flatten(1, 2)
            target = whole.gather(1, cells[..., None].expand(-1, -1, whole.shape[2]))
        prediction = self.decoder(dense, mixture, batch["relative"], cells)
        return self.likelihood(prediction.flatten(0, 1), target.flatten(0, 1), dense.flatten(0, 2), processes)


class TextTarget(nn.Module):
    """The representation of an image's text: by an encoder that learns along, or computed before and stored.

    Args:
        projection: from the encoder's pooled representation to that of texts.
        encoder: tokens -> representation; None: the batch has representations.
        likelihood: compares.
    """

    def __init__(self, projection: nn.Module, encoder: nn.Module | None, likelihood: Likelihood) -> None:
        super().__init__()
        self.projection = projection
        self.encoder = encoder
        self.likelihood = likelihood

    def forward(self, pooled: Tensor, batch: Tensors, processes: Processes) -> Term:
        """Predict and compare.

        Args:
            pooled: [N, hidden].
            batch: "text_key" [N], equal for equal texts and NO_KEY where there is none; "tokens" [N, L], or without
                an encoder "embedding" [N, D].
            processes: who share the batch.
        """
        target = batch["embedding"] if self.encoder is None else self.encoder(batch["tokens"])
        keys = batch["text_key"]
        return self.likelihood(self.projection(pooled), target, target, processes, valid=keys != NO_KEY, keys=keys)


class CategoryTarget(nn.Module):
    """The weights of the image's category: cross-entropy over all categories, which is supervised learning.

    Args:
        label_smoothing: share of the target that is spread over all categories.
    """

    def __init__(self, label_smoothing: float) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor, processes: Processes) -> Term:
        """Compare.

        Args:
            logits: [N, categories].
            labels: [N], NO_LABEL where there is none.
            processes: who share the batch.
        """
        valid = labels != NO_LABEL
        losses = F.cross_entropy(logits, labels.clamp(min=0), reduction="none", label_smoothing=self.label_smoothing)
        loss = mean_of_valid(losses, valid, processes)
        right = (logits.detach().argmax(1) == labels).to(losses.dtype)
        return Term(loss, {"": loss, "_accuracy": mean_of_valid(right, valid, processes)})


def dense_map(head: PoolHead, maps: list[Tensor]) -> Tensor:
    """The dense representation: what is predicted, and what predictions start from.

    Of models with a `ClipHead` it is their fused map. Other heads take the last map only; here the third stage's and
    the last, enlarged to its size, stand side by side. No weights beside the encoder's are involved.

    Args:
        head: of the encoder.
        maps: of the four stages, [N, h, w, C], the third with twice the sides of the last.

    Returns:
        [N, h3, w3, D], of zero mean and unit variance over the dimensions.
    """
    if isinstance(head, ClipHead):
        return _normalised(head.merge(maps))
    last = maps[3].repeat_interleave(2, 1).repeat_interleave(2, 2)
    return torch.cat([_normalised(maps[2]), _normalised(last)], dim=-1)


def dense_channels(head: PoolHead, channels: int) -> int:
    """D of `dense_map`, of an encoder with so many channels in its last stage."""
    return head.feature_channels if isinstance(head, ClipHead) else channels * 3 // 2


def _normalised(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])
