"""A training step of DINO beside one of Mask R-CNN, both on InternImage-T: its time, and the memory that it takes."""

import argparse
import subprocess
import sys

import pytest
import torch
from interleaved import Job, Table, compare
from memory import resident_mib
from one_model import pin
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from internimage.tasks.detection import create_detector

SIZE = (320, 448)
OBJECTS = 10
MODELS = {
    "Mask R-CNN": "mask_rcnn_internimage_t_fpn_1x_coco",
    "DINO": "dino_4scale_internimage_t_1x_coco_layer_wise_lr",
}


def targets(height: int, width: int) -> list[dict[str, Tensor]]:
    """Objects of one image, with full masks."""
    corners = torch.rand(OBJECTS, 2) * torch.tensor([width, height]) / 2
    boxes = torch.cat((corners, corners + torch.rand(OBJECTS, 2) * torch.tensor([width, height]) / 2 + 1), dim=1)
    masks = torch.ones(OBJECTS, height, width, dtype=torch.uint8)
    return [{"boxes": boxes, "labels": torch.randint(80, (OBJECTS,)), "masks": masks}]


def step(name: str) -> tuple[Job, Job]:
    """One on an image of `SIZE`, and one on a small image."""
    torch.manual_seed(0)
    model = create_detector(MODELS[name]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def on(*size: int) -> Job:
        images, objects = [torch.randn(3, *size)], targets(*size)

        def run() -> None:
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(model(images, objects).values())).sum().backward()
            optimizer.step()

        return run

    return on(*SIZE), on(128, 128)


def test_time(benchmark: BenchmarkFixture, tables: list[Table]) -> None:
    jobs = {name: step(name)[0] for name in MODELS}
    table = compare(f"training step at {SIZE[0]}x{SIZE[1]}, one image with {OBJECTS} objects", jobs, seconds=30)
    tables.append(table)
    benchmark.extra_info.update(medians=table.medians, ratios=table.ratios)
    benchmark.pedantic(jobs["DINO"], rounds=3)


@pytest.mark.timeout(1800)
def test_memory(benchmark: BenchmarkFixture, tables: list[Table]) -> None:
    growth = {}
    for name in MODELS:
        done = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True)
        growth[name] = [float(done.stdout)]
    table = Table(
        f"peak memory of such a step, beside weights and optimiser at {SIZE[0]}x{SIZE[1]}", growth, {}, unit="MiB"
    )
    tables.append(table)
    benchmark.extra_info.update(mib=table.medians, ratios=table.ratios)
    benchmark.pedantic(lambda: None)


def main() -> None:
    """MiB by which a step lets the process grow."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=MODELS)
    pin(1)
    large, small = step(parser.parse_args().model)
    small()  # what is allocated once: kernels, gradients, moments
    before = resident_mib("VmRSS")
    large()
    print(resident_mib("VmHWM") - before)


if __name__ == "__main__":
    main()
