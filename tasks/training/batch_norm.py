"""Batch normalisation with the statistics of all processes, on any device (torch's own is for CUDA alone)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def _sum(x: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return total


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose mean and variance are those of the batches of all processes together.

    Shapes: [N, C, H, W] -> the same; processes may have different N, H and W.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized()):
            return super().forward(x)
        values = x if x.dtype == torch.float64 else x.float()
        own = values.new_tensor([x.numel() // self.num_features])
        sums = torch.cat([values.sum((0, 2, 3)), own])
        sums = _sum(sums)
        total, count = sums[:-1], sums[-1:]
        centred = values - (total / count).view(-1, 1, 1)
        variance = _sum(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            unbiased = variance * (count / (count - 1).clamp(min=1))
            for running, new in ((self.running_mean, total / count), (self.running_var, unbiased)):
                if running is not None and self.momentum is not None:
                    running.lerp_(new.to(running.dtype), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        normal: Tensor = centred * (variance + self.eps).rsqrt().view(-1, 1, 1)
        if self.affine:
            normal = normal * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)
        return normal.to(x.dtype)


def synchronise_batch_norms(model: nn.Module) -> nn.Module:
    """Replace each BatchNorm2d of a model, in place, by one over all processes with the same weights."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                new = SyncBatchNorm(child.num_features, child.eps, child.momentum, child.affine)
                new.load_state_dict(child.state_dict())
                setattr(module, name, new.to(child.running_mean.device if child.running_mean is not None else "cpu"))
    return model
