"""The models compute what the official ones do."""

from functools import cache

import pytest
import torch
from golden_files import CLASSIFIERS, GoldenModel, golden_model
from torch import Tensor, nn

from internimage.backbone import InternImage
from internimage.composite import CompositeInternImage
from internimage.ops import use_backend
from internimage.ops.backend import Backend
from internimage.renames import INTERNIMAGE

both_backends = pytest.mark.parametrize("backend", ["native", "torch"])
each_classifier = pytest.mark.parametrize("name", CLASSIFIERS)

golden = cache(golden_model)


def load(model: nn.Module, reference: GoldenModel) -> None:
    names = INTERNIMAGE.from_official(reference.state)
    model.load_state_dict({names[key]: tensor for key, tensor in reference.state.items()}, strict=True)
    model.eval()


def classifier(reference: GoldenModel, dtype: torch.dtype) -> InternImage:
    model = InternImage(**reference.arguments)
    load(model, reference)
    return model.to(dtype)


def error(got: Tensor, expected: Tensor) -> float:
    """Largest deviation, by the size of what is expected."""
    return float((got.detach().double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


@both_backends
@each_classifier
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@torch.no_grad()
def test_logits_and_maps_are_the_official_ones(
    name: str, backend: Backend, dtype: torch.dtype, tolerance: float
) -> None:
    reference = golden(name)
    model = classifier(reference, dtype)
    with use_backend(backend):
        features, maps = model.forward_intermediates(reference["image"].to(dtype), output_fmt="NHWC")
        logits = model.forward_head(features)
    assert error(logits, reference["logits"]) < tolerance
    for index, got in enumerate(maps):
        assert error(got, reference[f"feat{index}"]) < tolerance, index


@both_backends
@each_classifier
def test_gradients_are_the_official_ones(name: str, backend: Backend) -> None:
    reference = golden(name)
    model = classifier(reference, torch.float64)
    image = reference["image"].double().requires_grad_()
    with use_backend(backend):
        (model(image) * reference["logits_cotangent"]).sum().backward()
    assert image.grad is not None
    assert error(image.grad, reference["grad_image"].double()) < 1e-7  # it is stored in float32

    names = INTERNIMAGE.to_official(model.state_dict())
    norms = {names[key]: float(p.grad.norm()) for key, p in model.named_parameters() if p.grad is not None}
    assert norms == pytest.approx(reference.parameter_gradient_norms, rel=1e-10, abs=1e-13)


@both_backends
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@torch.no_grad()
def test_the_composite_backbone_is_the_official_one(backend: Backend, dtype: torch.dtype, tolerance: float) -> None:
    reference = golden("cb_like")
    model = CompositeInternImage(**reference.arguments)
    load(model, reference)
    with use_backend(backend):
        outputs = model.to(dtype)(reference["image"].to(dtype))
    for module, maps in enumerate(outputs):
        for stage, got in enumerate(maps, start=1):
            assert error(got, reference[f"module{module}_stage{stage}"]) < tolerance, (module, stage)


@torch.no_grad()
def test_the_composite_backbone_can_leave_gamma_unrounded() -> None:
    reference = golden("cb_like")
    model = CompositeInternImage(round_gamma=False, **reference.arguments)
    load(model, reference)
    _, lead = model.double()(reference["image"].double())
    rounded = CompositeInternImage(**reference.arguments)
    load(rounded, reference)
    for gamma in rounded.gammas:
        gamma.copy_(gamma.half())
    _, expected = rounded.double()(reference["image"].double())
    assert 1e-5 < error(lead[-1], reference["module1_stage3"]) < 1e-2
    assert error(expected[-1], reference["module1_stage3"]) < 1e-10
