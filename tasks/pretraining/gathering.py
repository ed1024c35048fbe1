"""Tensors of all processes in the loss of each, with the gradients of the mean of all their losses.

Each process has a loss of its own, and DistributedDataParallel and FSDP average the gradients. So the backward passes
here add up what the losses of all processes say of a tensor.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from internimage.tasks.training.distributed import Processes


def gather(tensor: Tensor, processes: Processes) -> Tensor:
    """[N, ...] of each process -> [processes * N, ...], in order of their ranks; all have the same shape."""
    if processes.world_size == 1:
        return tensor
    return cast(Tensor, _Gather.apply(tensor, processes))  # type: ignore[no-untyped-call]


def add_up(tensor: Tensor, processes: Processes) -> Tensor:
    """The sum over all processes, in each of them."""
    if processes.world_size == 1:
        return tensor
    return cast(Tensor, _AddUp.apply(tensor, processes))  # type: ignore[no-untyped-call]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(processes.world_size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        processes: Processes = ctx.processes
        return processes.sum(gradient).chunk(processes.world_size)[processes.rank], None


class _AddUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        return processes.sum(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        processes: Processes = ctx.processes
        return processes.sum(gradient), None
