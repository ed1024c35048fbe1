"""A training step of InternImage-T at 224 beside its peers in torchvision."""

import pytest
import torch
import torch.nn.functional as F
from interleaved import Job, Table, compare
from one_model import create
from pytest_benchmark.fixture import BenchmarkFixture

PEERS = ("convnext_tiny", "swin_t")


def step(name: str, batch: int) -> Job:
    model = create(name).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    images, labels = torch.randn(batch, 3, 224, 224), torch.randint(0, 1000, (batch,))

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return run


@pytest.mark.parametrize("batch", [4, 8])
def test_training_step(benchmark: BenchmarkFixture, tables: list[Table], batch: int) -> None:
    jobs = {"internimage_t": step("internimage_t", batch)}
    missing = {}
    for name in PEERS:
        try:
            jobs[name] = step(name, batch)
        except ImportError:
            missing[name] = "pip install torchvision"
    table = compare(f"training step at 224, batch {batch}", jobs, missing=missing, seconds=30)
    tables.append(table)
    benchmark.extra_info.update(medians=table.medians, ratios=table.ratios, missing=missing)
    benchmark.pedantic(jobs["internimage_t"], rounds=3)
