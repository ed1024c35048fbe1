"""Batch normalisation with the statistics of all processes, on any device (torch's own is for CUDA alone)."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
import torch.nn.functional as F
from torch import Tensor, nn


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose mean and variance are those of the batches of all processes together.

    Shapes: [N, C, H, W] -> the same; processes may have different N, H and W.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized()):
            return super().forward(x)
        values = x.float().flatten(2)
        count = values.new_full((1,), values.shape[0] * values.shape[2])
        sums = torch.cat([values.sum((0, 2)), values.square().sum((0, 2)), count])
        total, squares, count = dist_functional.all_reduce(sums).split([self.num_features, self.num_features, 1])
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0)
        with torch.no_grad():
            unbiased = variance * (count / (count - 1).clamp(min=1))
            for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
                if running is not None and self.momentum is not None:
                    running.lerp_(new.to(running.dtype), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        return F.batch_norm(x, mean, variance, self.weight, self.bias, training=False, eps=self.eps)


def synchronise_batch_norms(model: nn.Module) -> nn.Module:
    """Replace each BatchNorm2d of a model, in place, by one over all processes with the same weights."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                new = SyncBatchNorm(child.num_features, child.eps, child.momentum, child.affine)
                new.load_state_dict(child.state_dict())
                setattr(module, name, new.to(child.running_mean.device if child.running_mean is not None else "cpu"))
    return model
