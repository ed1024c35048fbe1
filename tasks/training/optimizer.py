"""Parameter groups and the optimiser."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection

from torch import nn
from torch.optim import AdamW

from internimage.tasks.training.schedule import LearningRate


def build_adamw(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    *,
    beta2: float = 0.999,
    lr_scale: Callable[[str], float] = lambda name: 1.0,
    undecayed: Collection[str] = (),
) -> AdamW:
    """AdamW over the parameters that are trained, with no weight decay for vectors: biases, norms, layer scales.

    A group holds the parameters of one scale and one decay; its `peak_lr` is what schedules start from.

    Args:
        model: whose parameters, under whose names.
        learning_rate: at the peak.
        weight_decay: of matrices and convolutions.
        beta2: second momentum.
        lr_scale: name of a parameter -> factor of its learning rate.
        undecayed: parts of names of further parameters without weight decay.

    Raises:
        ValueError: all parameters are frozen.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not name.endswith(".bias") and not any(part in name for part in undecayed)
            groups[lr_scale(name), weight_decay if decays else 0.0].append(parameter)
    if not groups:
        raise ValueError("build_adamw: no parameter of the model requires a gradient, so there is nothing to train")
    rows = [
        {"params": parameters, "lr": scale * learning_rate, "peak_lr": scale * learning_rate, "weight_decay": decay}
        for (scale, decay), parameters in groups.items()
    ]
    return AdamW(rows, betas=(0.9, beta2))


def set_learning_rate(optimizer: AdamW, schedule: LearningRate, step: int) -> float:
    """Give each group its learning rate for a step; returns the largest."""
    for group in optimizer.param_groups:
        group["lr"] = schedule(step, group["peak_lr"])
    return max(float(group["lr"]) for group in optimizer.param_groups)
