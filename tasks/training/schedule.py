"""Learning rates as functions of the step. Each parameter group has its own peak."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from internimage.tasks.training.recipe import Recipe

LearningRate = Callable[[int, float], float]  # step, peak -> learning rate


def schedule_of(recipe: Recipe, steps_per_epoch: int) -> LearningRate:
    """A recipe's learning rate over the steps."""
    total = recipe.total_steps(steps_per_epoch)
    warmup = recipe.warmup_steps or round(recipe.warmup_epochs * steps_per_epoch)
    min_lr, warmup_lr = recipe.min_lr * recipe.lr_factor, recipe.warmup_lr * recipe.lr_factor
    if recipe.schedule == "polynomial":
        ratio = recipe.warmup_lr / recipe.learning_rate
        return polynomial(total=total, warmup=warmup, warmup_ratio=ratio, min_lr=min_lr, power=recipe.poly_power)
    if recipe.schedule == "step":
        drops = [round(epoch * steps_per_epoch) for epoch in recipe.lr_drops]
        return stepped(drops, warmup=warmup, warmup_ratio=recipe.warmup_lr / recipe.learning_rate)
    shifted = recipe.schedule == "cosine"
    return cosine(total=total, warmup=warmup, warmup_lr=warmup_lr, min_lr=min_lr, shifted=shifted)


def cosine(
    *, total: int, warmup: int = 0, warmup_lr: float = 0.0, min_lr: float = 0.0, shifted: bool = True
) -> LearningRate:
    """Linear warm-up, then half a cosine from the peak down to `min_lr` (arXiv 1608.03983, without restarts).

    Args:
        total: steps of the whole run.
        warmup: steps of linear growth from `warmup_lr`.
        warmup_lr: learning rate of step 0, the same for all groups.
        min_lr: learning rate that step `total` would have, the same for all groups.
        shifted: the cosine starts at the end of the warm-up. Otherwise it counts from step 0, so that the learning
            rate steps down a little when the warm-up ends, as in the official training.
    """
    start = warmup if shifted else 0

    def learning_rate(step: int, peak: float) -> float:
        if step < warmup:
            return warmup_lr + (peak - warmup_lr) * step / warmup
        return min_lr + (peak - min_lr) / 2 * (1 + math.cos(math.pi * (step - start) / (total - start)))

    return learning_rate


def polynomial(
    *, total: int, warmup: int = 0, warmup_ratio: float = 0.0, min_lr: float = 0.0, power: float = 1.0
) -> LearningRate:
    """(1 - step / total)^power from the peak down to `min_lr`, times a factor that the warm-up takes from a ratio to 1.

    Args:
        total: steps of the whole run.
        warmup: steps in which the factor grows linearly.
        warmup_ratio: factor of step 0.
        min_lr: learning rate that step `total` would have, the same for all groups.
        power: exponent.
    """

    def learning_rate(step: int, peak: float) -> float:
        decayed = min_lr + (peak - min_lr) * math.pow(1 - step / total, power)
        return decayed * _warmup_factor(step, warmup, warmup_ratio)

    return learning_rate


def stepped(drops: Sequence[int], *, warmup: int = 0, warmup_ratio: float = 0.0) -> LearningRate:
    """The peak, a tenth of it after each drop, times a factor that the warm-up takes from a ratio to 1.

    Args:
        drops: the first step of each tenth.
        warmup: steps in which the factor grows linearly.
        warmup_ratio: factor of step 0.
    """

    def learning_rate(step: int, peak: float) -> float:
        tenths = sum(step >= drop for drop in drops)
        return peak * 0.1**tenths * _warmup_factor(step, warmup, warmup_ratio)

    return learning_rate


def _warmup_factor(step: int, warmup: int, ratio: float) -> float:
    missing = max(0.0, 1 - step / warmup) if warmup else 0.0
    return 1 - missing * (1 - ratio)
