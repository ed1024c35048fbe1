"""Multi-scale deformable attention: values and gradients, against independent truths."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attention_strategies import AttentionCase, attention_cases, make_attention_case, off_the_pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_checks import assert_same_for_any_threads
from torch import Tensor

from internimage.ops import multi_scale_deformable_attention, use_backend
from internimage.ops.backend import Backend
from internimage.ops.schema import SCHEMA_VERSION

GOLDEN = Path(__file__).parent.parent / "data" / "golden" / "ms_deform_attn.npz"
BACKENDS: tuple[Backend, ...] = ("native", "torch")
HALVES = (torch.float16, torch.bfloat16)

both_backends = pytest.mark.parametrize("backend", BACKENDS)


def run(case: AttentionCase, backend: Backend) -> Tensor:
    with use_backend(backend):
        return multi_scale_deformable_attention(*case.arguments)


def gradients(case: AttentionCase, grad_output: Tensor, backend: Backend) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in case.tensors]
    return torch.autograd.grad(run(case.with_tensors(*leaves), backend), leaves, grad_output)


def waves(like: Tensor) -> Tensor:
    return torch.cos(torch.arange(like.numel(), dtype=torch.float64)).view_as(like)


def by_grid_sample(case: AttentionCase) -> Tensor:
    """The same result by PyTorch's own sampler: a call for each level, heads as images of a batch."""
    n, queries, heads, _, points, _ = case.locations.shape
    maps = case.value.split([height * width for height, width in case.shapes], dim=1)
    output = 0
    for level, (height, width) in enumerate(case.shapes):
        images = maps[level].permute(0, 2, 3, 1).reshape(n * heads, -1, height, width)
        grid = (2 * case.locations[:, :, :, level] - 1).transpose(1, 2).reshape(n * heads, queries, points, 2)
        samples = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        samples = samples.view(n, heads, -1, queries, points)
        output = output + torch.einsum("nhdqp,nqhp->nqhd", samples, case.weights[:, :, :, level])
    return output.flatten(-2)


@both_backends
def test_matches_the_released_operation(backend: Backend) -> None:
    with np.load(GOLDEN) as stored:
        tensors = [torch.from_numpy(stored[key]) for key in ("value", "sampling_locations", "attention_weights")]
        shapes, expected = stored["shapes"].tolist(), torch.from_numpy(stored["output"])
    with use_backend(backend):
        output = multi_scale_deformable_attention(tensors[0], shapes, *tensors[1:])
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-6)


@given(attention_cases(dtype=torch.float64))
@settings(max_examples=40, deadline=None)
def test_the_kernel_equals_the_definition(case: AttentionCase) -> None:
    expected = run(case, "torch")
    torch.testing.assert_close(run(case, "native"), expected, rtol=1e-10, atol=1e-10)
    found, wanted = (gradients(case, waves(expected), backend) for backend in BACKENDS)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@both_backends
@given(attention_cases(dtype=torch.float64))
@settings(max_examples=20, deadline=None)
def test_equals_grid_sample(backend: Backend, case: AttentionCase) -> None:
    case = off_the_pixels(case)
    leaves = [tensor.requires_grad_() for tensor in case.tensors]
    expected = by_grid_sample(case)
    torch.testing.assert_close(run(case, backend), expected, rtol=1e-10, atol=1e-10)
    wanted = torch.autograd.grad(expected, leaves, waves(expected))
    torch.testing.assert_close(gradients(case, waves(expected), backend), wanted, rtol=1e-8, atol=1e-8)


@given(attention_cases(), st.sampled_from([torch.float32, *HALVES]))
@settings(max_examples=40, deadline=None)
def test_lower_precision_stays_near_float64(case: AttentionCase, dtype: torch.dtype) -> None:
    """The error is that of rounding the result once: sums and coordinates are float32."""
    rounded = off_the_pixels(case.to(torch.float64)).to(dtype)
    exact = rounded.to(torch.float64)
    expected = run(exact, "torch")
    grad_output = waves(expected).to(dtype)
    epsilon = torch.finfo(dtype).eps
    for backend in BACKENDS:
        got = run(rounded, backend)
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), expected, rtol=2 * epsilon, atol=4 * epsilon + 2e-5)
        wanted = gradients(exact, grad_output.double(), "torch")
        for tensor, grad, want in zip(rounded.tensors, gradients(rounded, grad_output, backend), wanted, strict=True):
            assert grad.dtype == tensor.dtype
            error = (grad.double() - want).norm() / want.norm().clamp(min=1e-30)
            assert error < 4 * epsilon + 2e-4 or want.norm() < 1e-3


@both_backends
@given(attention_cases(dtype=torch.float64))
@settings(max_examples=12, deadline=None)
def test_gradients_match_finite_differences(backend: Backend, case: AttentionCase) -> None:
    case = off_the_pixels(case)
    leaves = [tensor.requires_grad_() for tensor in case.tensors]
    assert torch.autograd.gradcheck(lambda *tensors: run(case.with_tensors(*tensors), backend), leaves, fast_mode=True)


@both_backends
def test_second_derivatives_match_finite_differences(backend: Backend) -> None:
    case = off_the_pixels(make_attention_case(0, n=1, queries=3, head_channels=2, dtype=torch.float64))
    leaves = [tensor.requires_grad_() for tensor in case.tensors]
    assert torch.autograd.gradgradcheck(
        lambda *tensors: run(case.with_tensors(*tensors), backend), leaves, fast_mode=True
    )


@both_backends
def test_a_point_at_a_pixels_centre_gives_the_pixel_and_the_derivative_to_the_right(backend: Backend) -> None:
    """Offsets are whole pixels at initialisation, so this decides the first gradients of every training."""
    ramp = torch.tensor([1.0, 2.0, 4.0, 8.0]).view(1, 4, 1, 1)
    centre = torch.tensor([1.5 / 4, 0.5]).view(1, 1, 1, 1, 1, 2)
    case = AttentionCase(ramp, ((1, 4),), centre, torch.ones(1, 1, 1, 1, 1))
    assert run(case, backend).item() == 2
    _, grad, _ = gradients(case, torch.ones(1, 1, 1), backend)
    assert grad[..., 0].item() == 4 * (4 - 2)  # a level of width 4
    assert grad[..., 1].item() == -2  # towards the zeros below


@both_backends
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e30, -1e30])
def test_a_point_at_no_place_contributes_nothing(backend: Backend, value: float) -> None:
    case = make_attention_case(1, heads=3)
    nowhere, without = case.locations.clone(), case.weights.clone()
    nowhere[:, :, 1, :, 2, 1] = value
    without[:, :, 1, :, 2] = 0
    moved = case.with_tensors(case.value, nowhere, case.weights)
    torch.testing.assert_close(
        run(moved, backend), run(case.with_tensors(case.value, case.locations, without), backend)
    )
    grads = gradients(moved, torch.ones_like(run(case, backend)), backend)
    assert all(grad.isfinite().all() for grad in grads)
    assert not grads[1][:, :, 1, :, 2].any()
    assert not grads[2][:, :, 1, :, 2].any()


@both_backends
def test_a_level_is_sampled_within_its_own_pixels(backend: Backend) -> None:
    case = make_attention_case(2, shapes=((4, 5), (3, 3), (2, 6)), spread=1.0)
    chosen = torch.tensor([0.0, 1.0, 0.0]).view(3, 1)
    expected = run(case.with_tensors(case.value, case.locations, case.weights * chosen), backend)
    alone = AttentionCase(case.value[:, 20:29], ((3, 3),), case.locations[:, :, :, 1:2], case.weights[:, :, :, 1:2])
    torch.testing.assert_close(run(alone, backend), expected)


@both_backends
@pytest.mark.parametrize("name", ["batch", "queries", "one of each"])
def test_degenerate_sizes_work(backend: Backend, name: str) -> None:
    case = {
        "batch": make_attention_case(3, n=0),
        "queries": make_attention_case(3, queries=0),
        "one of each": make_attention_case(3, n=1, shapes=((1, 1),), heads=1, head_channels=1, queries=1, points=1),
    }[name]
    output = run(case, backend)
    assert output.shape == (*case.weights.shape[:2], case.value.shape[2] * case.value.shape[3])
    grads = gradients(case, torch.ones_like(output), backend)
    assert [grad.shape for grad in grads] == [tensor.shape for tensor in case.tensors]


@both_backends
def test_any_layout_of_memory_gives_the_same(backend: Backend) -> None:
    case = make_attention_case(4, n=3, heads=4, head_channels=8)
    grad_output = torch.randn_like(run(case, backend))
    expected = (run(case, backend), *gradients(case, grad_output, backend))
    turned = case.with_tensors(
        case.value.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        case.locations.transpose(0, 1).contiguous().transpose(0, 1),
        case.weights.transpose(-1, -2).contiguous().transpose(-1, -2),
    )
    assert not any(tensor.is_contiguous() for tensor in turned.tensors)
    other = grad_output.transpose(0, 2).contiguous().transpose(0, 2)
    found = (run(turned, backend), *gradients(turned, other, backend))
    torch.testing.assert_close(found, expected)
    expanded = case.with_tensors(case.value[:1].expand(3, -1, -1, -1), case.locations, case.weights)
    copied = case.with_tensors(expanded.value.contiguous(), case.locations, case.weights)
    torch.testing.assert_close(run(expanded, backend), run(copied, backend))


@given(attention_cases())
@settings(max_examples=10, deadline=None)
def test_the_number_of_threads_changes_no_bit(case: AttentionCase) -> None:
    grad_output = torch.ones_like(run(case, "native"))
    assert_same_for_any_threads(lambda: (run(case, "native"), *gradients(case, grad_output, "native")))


@both_backends
@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_keeps_coordinates_in_float32(backend: Backend, dtype: torch.dtype) -> None:
    case = make_attention_case(5, shapes=((2, 2000),))
    mixed = case.with_tensors(case.value.to(dtype), case.locations, case.weights)
    with torch.autocast("cpu", dtype=dtype):
        found = run(mixed, backend)
        grads = gradients(mixed, torch.ones_like(found), backend)
    assert found.dtype == dtype
    assert [grad.dtype for grad in grads] == [dtype, torch.float32, torch.float32]
    torch.testing.assert_close(found, run(case.to(dtype), backend))
    coarse = case.with_tensors(case.value, case.locations.to(dtype).float(), case.weights)
    assert (run(coarse, backend) - found).abs().max() > 0.1  # what halves would do to a map of 2000 pixels


@both_backends
def test_locations_of_a_half_type_are_taken_as_they_are(backend: Backend) -> None:
    case = make_attention_case(6).to(torch.bfloat16)
    halves = case.with_tensors(case.value, case.locations.bfloat16(), case.weights)
    widened = case.with_tensors(case.value, halves.locations.float(), case.weights)
    assert torch.equal(run(halves, backend), run(widened, backend))
    assert gradients(halves, torch.ones_like(run(case, backend)), backend)[1].dtype == torch.bfloat16


@both_backends
def test_works_under_function_transforms(backend: Backend) -> None:
    case = make_attention_case(7)

    def loss(value: Tensor) -> Tensor:
        return run(case.with_tensors(value, case.locations, case.weights), backend).square().sum()

    leaf = case.value.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(case.value), expected)
    per_sample = torch.func.vmap(lambda *t: run(case.with_tensors(*(x[None] for x in t)), backend)[0])(*case.tensors)
    torch.testing.assert_close(per_sample, run(case, backend))


def test_an_operator_of_another_version_is_refused() -> None:
    case = make_attention_case(8)
    for backend in BACKENDS:
        run(case, backend)  # the kernel is loaded
    with pytest.raises(RuntimeError, match=f"version {SCHEMA_VERSION + 1}"):
        torch.ops.internimage.ms_deform_attn(*case.tensors, case.flat_shapes, SCHEMA_VERSION + 1)


CASE = make_attention_case(9)
BAD_CALLS = {
    "rank": ({"value": CASE.value[0]}, r"value must be \[N, S, heads, D\], got shape \(39, 2, 4\)"),
    "tensor of shapes": ({"spatial_shapes": torch.tensor(CASE.shapes)}, r"pairs of ints, got a tensor.*\.tolist\(\)"),
    "no levels": ({"spatial_shapes": []}, r"a pair \(height, width\) of at least 1 for each level, got \[\]"),
    "empty level": ({"spatial_shapes": [(5, 6), (0, 2), (1, 9)]}, r"at least 1.*\(0, 2\)"),
    "pixels": ({"spatial_shapes": [(5, 6), (3, 2), (1, 4)]}, r"got 39 in shape .* and 40 in the levels .*flatten"),
    "levels": (
        {"spatial_shapes": [(5, 6), (3, 3)]},
        r"attention_weights must have .*\(2, 7, 2, 2, 4\).*got \(2, 7",
    ),
    "locations": (
        {"sampling_locations": CASE.locations[:, :6]},
        r"sampling_locations must .*\(2, 7, 2, 3, 4, 2\)",
    ),
    "x and y": ({"sampling_locations": CASE.locations[..., :1]}, r"points, x and y\).*got \(2, 7, 2, 3, 4, 1\)"),
    "heads": ({"attention_weights": CASE.weights[:, :, :1]}, r"attention_weights must have shape \(2, 7, 2, 3, 4\)"),
    "points": ({"attention_weights": CASE.weights[..., :0]}, r"at least one head and point, got 2 heads and 0 points"),
    "dtypes": ({"attention_weights": CASE.weights.double()}, r"one dtype outside autocast.*float64.*\.to\(\)"),
    "integers": ({"value": CASE.value.int()}, r"got torch.int32; convert it with .float\(\)"),
    "devices": ({"sampling_locations": CASE.locations.to("meta")}, r"one device.*sampling_locations on meta"),
}


@pytest.mark.parametrize("call", BAD_CALLS)
def test_a_bad_call_says_what_is_wrong_and_how_to_mend_it(call: str) -> None:
    changes, message = BAD_CALLS[call]
    names = ("value", "spatial_shapes", "sampling_locations", "attention_weights")
    with pytest.raises(ValueError, match=message):
        multi_scale_deformable_attention(**{**dict(zip(names, CASE.arguments, strict=True)), **changes})


@pytest.mark.parametrize(
    ("shapes", "locations", "message"),
    [
        ([5, 6, 3, 2, 1, 4], CASE.locations, "value has 39 pixels|does not fit"),
        ([5, 6, 3, 2, 2**40, 2**40], CASE.locations, "does not fit"),
        ([5, 6, 3], CASE.locations, "height and width of 3"),
        ([5, 6, 3, 2, 1, 3], CASE.locations[:, :-1], "attention_weights must be"),
        ([5, 6, 3, 2, 1, 3], CASE.locations.double(), "dtype of value"),
    ],
)
def test_the_operator_itself_refuses_what_would_read_foreign_memory(
    shapes: list[int], locations: Tensor, message: str
) -> None:
    run(CASE, "native")
    with pytest.raises(RuntimeError, match=message):
        torch.ops.internimage.ms_deform_attn(CASE.value, locations, CASE.weights, shapes, SCHEMA_VERSION)
