"""InternImage-T at 224, forward: the whole network with the kernel and without, beside its peers in torchvision."""

import pytest
import torch
from interleaved import Table, compare
from pytest_benchmark.fixture import BenchmarkFixture

from internimage import create_model
from internimage.ops import use_backend

PEERS = ("convnext_tiny", "swin_t")


@pytest.mark.parametrize("batch", [1, 8])
def test_internimage_t_forward(benchmark: BenchmarkFixture, tables: list[Table], batch: int) -> None:
    torch.manual_seed(0)
    model = create_model("internimage_t").eval()
    images = torch.randn(batch, 3, 224, 224)

    @torch.inference_mode()
    def with_kernel() -> None:
        with use_backend("native"):
            model(images)

    @torch.inference_mode()
    def without() -> None:
        with use_backend("torch"):
            model(images)

    jobs = {"kernel, eager": with_kernel, "pure PyTorch, eager": without}
    missing = {}
    try:
        from torchvision import models
    except ImportError:
        missing = dict.fromkeys(PEERS, "pip install torchvision")
    else:
        for name in PEERS:
            peer = models.get_model(name).eval()
            jobs[f"torchvision's {name}"] = lambda peer=peer: torch.inference_mode()(peer)(images)
    table = compare(f"InternImage-T forward at 224, batch {batch}", jobs, missing=missing, seconds=15)
    tables.append(table)
    benchmark.extra_info.update(medians=table.medians, ratios=table.ratios, missing=missing)
    benchmark.pedantic(with_kernel, rounds=5, warmup_rounds=1)
