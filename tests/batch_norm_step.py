"""One training step of a batch norm, alone or as one of two processes; they must be able to import it."""

import torch
import torch.distributed as dist

from internimage.tasks.training.batch_norm import SyncBatchNorm


def batch(dtype):
    generator = torch.Generator().manual_seed(0)
    return (100 + torch.randn(5, 3, 4, 6, generator=generator)).to(dtype)  # a mean that cancels badly


def build(kind, dtype):
    norm = kind(3, momentum=0.3).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        norm.bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
    return norm


def train_step(norm, x, weight):
    x = x.clone().requires_grad_()
    y = norm(x)
    (y * weight).sum().backward()
    return y.detach(), x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var


def process(rank, store, results):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    x, weight = batch(torch.float32), torch.linspace(-1, 1, 360).view(5, 3, 4, 6)
    own = slice(0, 2) if rank == 0 else slice(2, 5)  # of different length
    parts = train_step(build(SyncBatchNorm, torch.float32), x[own], weight[own])
    results.put((rank, [part.numpy() for part in parts]))
    dist.barrier()
    dist.destroy_process_group()
