"""Models in int8 stay close to those in float, whose operators they keep."""

import artifacts
import pytest
import torch

from internimage.deploy import Deployed, export, quantise

pytestmark = pytest.mark.once


def test_layers_become_int8_and_the_operator_stays_float() -> None:
    pytest.importorskip("torchao", reason="needs the extra int8")
    model = Deployed(artifacts.exportables()["classification"].model, pixels="uint8").eval()
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    quantised = quantise(model, [(images,)], batch=(1, 6))
    with torch.no_grad():
        (expected,), (got,) = model(images), quantised(images)
    assert 0 < float((got - expected).abs().max() / expected.abs().max()) < 0.1
    program = export(quantised, images, batch=(1, 6))
    targets = [str(node.target) for node in program.graph.nodes]
    layers = sum(isinstance(module, torch.nn.Linear | torch.nn.Conv2d) for module in model.modules())
    assert sum("dequantize_per_channel" in target for target in targets) == layers
    (operator,) = (node for node in program.graph.nodes if str(node.target) == "internimage.dcnv3.default")
    assert operator.args[0].meta["val"].dtype == torch.float32


def test_quantisation_needs_batches() -> None:
    pytest.importorskip("torchao", reason="needs the extra int8")
    with pytest.raises(ValueError, match="expected batches to find the scales with, got none"):
        quantise(artifacts.exportables()["classification"].model, [])
