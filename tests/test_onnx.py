"""ONNX files hold standard operators alone and give the model's numbers in onnxruntime."""

from pathlib import Path
from typing import Any

import artifacts
import pytest
import torch
from torch import Tensor, nn

from internimage import deploy
from internimage.deploy.onnx import load_onnx, write_onnx
from internimage.ops import dcnv3, multi_scale_deformable_attention, nms_mask, roi_align
from internimage.ops.geometry import Geometry

pytestmark = pytest.mark.once

GEOMETRIES = [
    {"groups": 3},
    {"groups": 2, "offset_scale": 2.0, "remove_center": True, "softmax": True},
    {"groups": 4, "kernel_size": (3, 5), "padding": (1, 2), "stride": (2, 1), "dilation": (1, 2), "offset_scale": 0.5},
]


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="needs the extra onnx")


class Deformed(nn.Module):
    """DCNv3 of several geometries, of which each learns where to sample, far beyond the image too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.predictions = nn.ModuleList()
        for options in GEOMETRIES:
            sizes: dict[str, Any] = {"kernel_size": 3, "padding": 1, "stride": 1, "dilation": 1} | {
                key: value for key, value in options.items() if key in ("kernel_size", "padding", "stride", "dilation")
            }
            taps = self.geometry(options).taps
            self.predictions.append(nn.Conv2d(12, 3 * options["groups"] * taps, **sizes))

    @staticmethod
    def geometry(options: dict[str, Any]) -> Geometry:
        kernel = options.get("kernel_size", (3, 3))
        return Geometry(kernel, (1, 1), (1, 1), (1, 1), 1, 1.0, options.get("remove_center", False), False)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        results = []
        for options, prediction in zip(GEOMETRIES, self.predictions, strict=True):
            predicted = prediction(image).permute(0, 2, 3, 1) * 4
            offset, mask = predicted.tensor_split([predicted.shape[-1] // 3 * 2], dim=-1)
            results.append(dcnv3(image.permute(0, 2, 3, 1), offset, mask, **options))
        return tuple(results)


class Detecting(nn.Module):
    """What detectors need beside: attention over two maps, RoIAlign with padding, NMS in groups."""

    def forward(self, image: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
        n, _, height, width = image.shape
        half = nn.functional.avg_pool2d(image, 2)
        value = torch.cat([x.flatten(2) for x in (image, half)], dim=2).transpose(1, 2).unflatten(2, (2, -1))
        places = (rows.view(n, -1, 2, 2, 3, 2) * 0.7).sin() * 0.6 + 0.5  # some lie outside
        weights = rows.view(n, -1, 2, 2, 3, 2).mean(-1)
        shapes = [(height, width), (half.shape[2], half.shape[3])]
        attended = multi_scale_deformable_attention(value, shapes, places, weights)
        boxes = rows[..., :4].abs() * 4
        boxes = torch.cat((boxes[..., :2], boxes[..., :2] + boxes[..., 2:]), dim=-1)
        index = (rows[..., 4:5] * 2).round()  # also none of the images
        pooled = roi_align(image, torch.cat((index, boxes), dim=-1).flatten(0, 1), (2, 3), spatial_scale=0.5)
        groups = (rows[..., 5] * 2).long().flatten()  # also negative
        kept = nms_mask(boxes.flatten(0, 1), rows[..., 6].flatten(), 0.3, groups=groups)
        return attended, pooled, kept.float()


def compare(model: nn.Module, example: tuple[Tensor, ...], calls: list[tuple[Tensor, ...]], path: Path) -> None:
    program = deploy.export(model.eval(), example, batch=(1, 8), height=(8, 64), width=(8, 64))
    with torch.no_grad():
        write_onnx(program, path, [f"output{i}" for i in range(len(model(*example)))])
        run = load_onnx(path)
        for inputs in calls:
            for got, expected in zip(run(*inputs), model(*inputs), strict=True):
                torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_dcnv3_is_deform_conv_whatever_its_geometry_and_offsets(tmp_path: Path) -> None:
    import onnx

    images = [(torch.randn(shape),) for shape in ((2, 12, 16, 18), (1, 12, 9, 30), (3, 12, 21, 8))]
    compare(Deformed(), images[0], images, tmp_path / "model.onnx")
    nodes = list(onnx.load(tmp_path / "model.onnx").graph.node)
    assert {node.domain for node in nodes} <= {"", "ai.onnx"}
    assert sum(node.op_type == "DeformConv" for node in nodes) == len(GEOMETRIES)


def test_the_operators_of_detectors_are_standard_ones(tmp_path: Path) -> None:
    sizes = ((2, 8, 16, 18), (1, 8, 9, 30), (3, 8, 21, 8))
    inputs = [(torch.randn(shape), torch.randn(shape[0], 40, 24)) for shape in sizes]
    compare(Detecting(), inputs[0], inputs, tmp_path / "model.onnx")


def test_an_artifact_may_be_an_onnx_file(tmp_path: Path) -> None:
    source = artifacts.exportables()["classification"]
    folder = artifacts.save_artifact(source, tmp_path / "artifact", format="onnx", **artifacts.SIZES)
    artifact = deploy.load_artifact(folder)
    assert artifact.difference() < 1e-5
    assert artifact.manifest.operators is None
    with pytest.raises(ValueError, match=r"must be uint8 \[1 to 6, 3, 32 to 256, 32 to 256\]"):
        artifact(torch.zeros(7, 3, 64, 64, dtype=torch.uint8))
