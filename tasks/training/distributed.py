"""Several processes that train one model, on PyTorch's own engine: DistributedDataParallel and FSDP2."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

from internimage.backbone import Block
from internimage.tasks.devices import choose_device
from internimage.tasks.training.recipe import Precision, Strategy

# A process that writes a checkpoint of billions of weights keeps the others waiting for minutes.
_TIMEOUT = timedelta(minutes=30)
_LAST_COLLECTIVE_S = 0.1

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Processes:
    """Who takes part, and which of them this is."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes; whole numbers stay exact."""
        if self.world_size > 1:
            summed = tensor.to(self.device, copy=True)
            dist.all_reduce(summed)
            return summed.to(tensor.device)
        return tensor

    def gather(self, thing: Any) -> list[Any]:
        """What each process has, in order of their ranks."""
        things = [thing] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(things, thing)
        return things

    def share(self, count: int) -> tuple[list[int], bool]:
        """Which of `count` things this process sees, and whether it sees the last of them twice.

        All processes see equally many, as sharded models need it: the last thing is repeated where it takes that.
        """
        own = range(self.rank, self.rank + count, self.world_size)
        return [min(index, count - 1) for index in own], bool(own) and own[-1] >= count

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Meet the processes that `torchrun` started, or be the only one.

    Args:
        device: as `--device` names it. On CUDA each process of a host takes the device of its local rank.

    Raises:
        ValueError: no such device, or more processes on this host than it has devices.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Processes(choose_device(device))
        return
    rank, world_size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    chosen = choose_device(device)
    if chosen.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"process {local_rank} of this host has no CUDA device, there are {torch.cuda.device_count()}; start "
                "torchrun with --nproc-per-node of at most that"
            )
        chosen = torch.device("cuda", local_rank)
        torch.cuda.set_device(chosen)
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        yield Processes(chosen, rank, world_size)
    finally:
        # A thread of gloo may still hold the tensors of the last collective, and needs Python's lock to let go of them.
        # Who destroys the group waits for that thread with the lock held, forever: so let it finish before.
        time.sleep(_LAST_COLLECTIVE_S)
        dist.destroy_process_group()


def parallelise(model: nn.Module, processes: Processes, strategy: Strategy, precision: Precision) -> nn.Module:
    """Let the processes share a model that all of them have built alike.

    With "ddp" each holds all weights and gradients are averaged; batch statistics stay with each process, and the
    result wraps the model. With "fsdp" the weights are sharded block by block, in place, and gathered for as long as
    a block runs; gradients are averaged in float32. A model may name methods in `entrances` that it is used by beside
    `forward`.
    """
    if processes.world_size == 1 and strategy == "ddp":
        return model
    if strategy == "ddp":
        devices = [processes.device.index] if processes.device.type == "cuda" else None
        return DistributedDataParallel(model, devices, broadcast_buffers=False, gradient_as_bucket_view=True)
    if processes.world_size == 1 and not dist.is_initialized():
        raise ValueError("--strategy fsdp shards over processes: start it with torchrun --nproc-per-node N")
    mesh = init_device_mesh(processes.device.type, (processes.world_size,))
    # Inputs and buffers stay as they are: autocast decides, as it does without sharding.
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if precision != "float32":
        policy = MixedPrecisionPolicy(DTYPES[precision], reduce_dtype=torch.float32, cast_forward_inputs=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # its weights must have the dtype of its statistics
            fully_shard(module, mesh=mesh)
        elif isinstance(module, Block):
            fully_shard(module, mesh=mesh, mp_policy=policy)
    # Resharded after the forward pass too: evaluation and the moving average then meet no gathered weights.
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    for name in getattr(model, "entrances", ()):
        register_fsdp_forward_method(model, name)
    return model


def inner_model(model: nn.Module) -> nn.Module:
    """The model under the names that it has without DistributedDataParallel."""
    return cast(nn.Module, model.module) if isinstance(model, DistributedDataParallel) else model


def reduce_gradients(model: nn.Module, reduce: bool) -> None:
    """Whether the next backward pass averages the gradients; of the parts of a step only the last has to."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(reduce)
    elif isinstance(model, DistributedDataParallel):
        model.require_backward_grad_sync = reduce
