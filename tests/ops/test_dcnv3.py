"""The operator's values and gradients, against independent truths."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_checks import assert_same_for_any_threads
from strategies import Case, dcnv3_cases, make_case, off_the_grid
from torch import Tensor

from internimage.ops import backend as backend_module
from internimage.ops import dcnv3, get_backend, use_backend
from internimage.ops.backend import Backend
from internimage.ops.reference import sampling_locations
from internimage.ops.schema import SCHEMA_VERSION

GOLDEN = Path(__file__).parent.parent / "data" / "golden"
BACKENDS: tuple[Backend, ...] = ("native", "torch")
HALVES = (torch.float16, torch.bfloat16)

both_backends = pytest.mark.parametrize("backend", BACKENDS)


def run(case: Case, backend: Backend) -> Tensor:
    with use_backend(backend):
        return dcnv3(*case.tensors, **case.options)


def gradients(case: Case, grad_output: Tensor, backend: Backend) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in case.tensors]
    return torch.autograd.grad(run(case.with_tensors(*leaves), backend), leaves, grad_output)


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30))


@both_backends
@pytest.mark.parametrize("name", ["default3x3", "stride2", "dilation2", "kernel5", "removecenter", "scale2_outofimage"])
def test_matches_the_released_operator(name: str, backend: Backend) -> None:
    stored = np.load(GOLDEN / f"op_{name}.npz")
    p = json.loads(str(stored["params"]))
    options = {
        "kernel_size": (p["kernel_h"], p["kernel_w"]),
        "stride": (p["stride_h"], p["stride_w"]),
        "padding": (p["pad_h"], p["pad_w"]),
        "dilation": (p["dilation_h"], p["dilation_w"]),
        "groups": p["group"],
        "offset_scale": p["offset_scale"],
        "remove_center": bool(p["remove_center"]),
    }
    for dtype, tolerances in ((torch.float64, [1e-10] * 4), (torch.float32, [2e-6, 2e-6, 2e-5, 2e-5])):
        leaves = [torch.from_numpy(stored[key]).to(dtype).requires_grad_() for key in ("input", "offset", "mask")]
        with use_backend(backend):
            output = dcnv3(*leaves, **options)
        grads = torch.autograd.grad(output, leaves, torch.from_numpy(stored["grad_output"]).to(dtype))
        names = ("output", "grad_input", "grad_offset", "grad_mask")
        for key, got, tolerance in zip(names, (output, *grads), tolerances, strict=True):
            torch.testing.assert_close(got.double(), torch.from_numpy(stored[key]), rtol=0, atol=tolerance, msg=key)


@given(dcnv3_cases(dtype=torch.float64))
@settings(max_examples=40, deadline=None)
def test_the_kernel_equals_the_definition(case: Case) -> None:
    expected = run(case, "torch")
    torch.testing.assert_close(run(case, "native"), expected, rtol=1e-10, atol=1e-10)
    grad_output = torch.cos(torch.arange(expected.numel(), dtype=torch.float64)).view_as(expected)
    for got, want in zip(gradients(case, grad_output, "native"), gradients(case, grad_output, "torch"), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@given(dcnv3_cases(), st.sampled_from([torch.float32, *HALVES]))
@settings(max_examples=40, deadline=None)
def test_lower_precision_stays_near_float64(case: Case, dtype: torch.dtype) -> None:
    """The error is that of rounding the result once: sums and coordinates are float32."""
    case = off_the_grid(case.with_tensors(*(tensor.to(dtype).double() for tensor in case.tensors)))
    rounded = case.with_tensors(*(tensor.to(dtype) for tensor in case.tensors))
    exact = case.with_tensors(*(tensor.double() for tensor in rounded.tensors))
    expected = run(exact, "torch")
    grad_output = torch.sin(torch.arange(expected.numel(), dtype=torch.float64)).view_as(expected)
    epsilon = torch.finfo(dtype).eps
    for backend in BACKENDS:
        got = run(rounded, backend)
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), expected, rtol=2 * epsilon, atol=4 * epsilon + 2e-5)
        grads = gradients(rounded, grad_output.to(dtype), backend)
        exact_grads = gradients(exact, grad_output.to(dtype).double(), "torch")
        for got, want in zip(grads, exact_grads, strict=True):
            assert got.dtype == dtype
            assert relative_error(got, want) < 4 * epsilon + 2e-4 or want.norm() < 1e-3


@both_backends
@given(dcnv3_cases(dtype=torch.float64))
@settings(max_examples=12, deadline=None)
def test_gradients_match_finite_differences(backend: Backend, case: Case) -> None:
    case = off_the_grid(case)
    leaves = [tensor.requires_grad_() for tensor in case.tensors]
    assert torch.autograd.gradcheck(lambda *tensors: run(case.with_tensors(*tensors), backend), leaves, fast_mode=True)


@both_backends
def test_second_derivatives_match_finite_differences(backend: Backend) -> None:
    case = off_the_grid(make_case(0, n=1, size=(3, 4), groups=2, group_channels=2, dtype=torch.float64, softmax=True))
    leaves = [tensor.requires_grad_() for tensor in case.tensors]
    assert torch.autograd.gradgradcheck(
        lambda *tensors: run(case.with_tensors(*tensors), backend), leaves, fast_mode=True
    )


@both_backends
@pytest.mark.parametrize("kernel", [(3, 3), (5, 3)])
def test_the_derivative_at_integer_coordinates_is_the_one_to_the_right(
    backend: Backend, kernel: tuple[int, int]
) -> None:
    """Offsets are zero at initialisation, so this decides the first gradient of every training."""
    case = make_case(1, spread=0, dtype=torch.float64, kernel_size=kernel, padding=(kernel[0] // 2, kernel[1] // 2))
    grad_output = torch.randn(run(case, "torch").shape, dtype=torch.float64)
    _, got, _ = gradients(case, grad_output, backend)
    step = 1e-6
    to_the_right = case.with_tensors(case.input, case.offset + step / 2, case.mask)
    _, expected, _ = gradients(to_the_right, grad_output, backend)
    y, x = sampling_locations(case.offset, case.geometry)
    height, width = case.input.shape[1:3]
    in_window = (y > -1) & (y < height) & (x > -1) & (x < width)  # a point at exactly -1 lies outside
    assert not in_window.all()
    expected = expected * in_window.unsqueeze(-1).expand(*y.shape, 2).flatten(-3)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-5)
    to_the_left = case.with_tensors(case.input, case.offset - step / 2, case.mask)
    assert relative_error(gradients(to_the_left, grad_output, backend)[1], expected) > 0.1


@both_backends
def test_equals_depthwise_deformable_convolution_of_torchvision(backend: Backend) -> None:
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed: pip install torchvision")
    scale, groups, kernel_h, kernel_w = 2.0, 3, 3, 5
    case = make_case(
        2, groups=groups, group_channels=4, dtype=torch.float64, kernel_size=(kernel_h, kernel_w), padding=(2, 1),
        stride=(2, 1), dilation=(1, 2), offset_scale=scale, size=(9, 12),
    )  # fmt: skip
    n, rows, columns, _ = case.offset.shape
    channels = case.input.shape[-1]
    # torchvision's taps run row by row and y comes before x; its grid is not scaled.
    offset = case.offset.view(n, rows, columns, groups, kernel_w, kernel_h, 2).transpose(4, 5).flip(-1)
    grid_y = (torch.arange(kernel_h) - (kernel_h - 1) // 2).view(-1, 1).expand(kernel_h, kernel_w) * 1
    grid_x = (torch.arange(kernel_w) - (kernel_w - 1) // 2).view(1, -1).expand(kernel_h, kernel_w) * 2
    grid = torch.stack((grid_y, grid_x), -1).double()
    offset = scale * (grid + offset) - grid
    mask = case.mask.view(n, rows, columns, groups, kernel_w, kernel_h).transpose(4, 5)
    expected = ops.deform_conv2d(
        case.input.permute(0, 3, 1, 2),
        offset.reshape(n, rows, columns, -1).permute(0, 3, 1, 2),
        torch.ones(channels, 1, kernel_h, kernel_w, dtype=torch.float64),
        stride=(2, 1),
        padding=(2, 1),
        dilation=(1, 2),
        mask=mask.reshape(n, rows, columns, -1).permute(0, 3, 1, 2),
    )
    torch.testing.assert_close(run(case, backend), expected.permute(0, 2, 3, 1), rtol=1e-12, atol=1e-12)


@both_backends
def test_softmax_inside_equals_softmax_outside(backend: Backend) -> None:
    case = make_case(3, groups=3, softmax=True, spread=2)
    logits = case.mask.view(*case.mask.shape[:3], 3, 9) * 20
    inside = case.with_tensors(case.input, case.offset, logits.flatten(-2))
    outside = Case(case.input, case.offset, logits.softmax(-1).flatten(-2), case.geometry._replace(softmax=False))
    torch.testing.assert_close(run(inside, backend), run(outside, backend))


@both_backends
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_softmax_inside_bears_large_logits(backend: Backend, dtype: torch.dtype) -> None:
    case = make_case(4, groups=4, dtype=dtype, softmax=True)
    logits = case.mask.unflatten(-1, (4, -1))
    logits[..., 0, :] += 300  # alike in all: changes nothing, though exp alone would overflow
    logits[..., 1, :] -= 300
    logits[:, 0, :, 2, :4] = 200  # the others vanish beside these
    logits[:, 1, :, 3, 1:] = float("-inf")
    outside = Case(case.input, case.offset, logits.softmax(-1).flatten(-2), case.geometry._replace(softmax=False))
    output = run(case, backend)
    torch.testing.assert_close(output, run(outside, "torch"))
    found, expected = (gradients(case, output, name) for name in (backend, "torch"))
    torch.testing.assert_close(found, expected)


@both_backends
def test_a_nan_among_the_logits_stays_in_its_pixel_and_group(backend: Backend) -> None:
    case = make_case(5, groups=4, softmax=True)
    expected = run(case, backend).unflatten(-1, (4, -1))
    case.mask.unflatten(-1, (4, -1))[0, 1, 1, 2, 3] = float("nan")
    expected[0, 1, 1, 2] = float("nan")
    torch.testing.assert_close(run(case, backend).unflatten(-1, (4, -1)), expected, equal_nan=True)


@both_backends
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e30, -1e30])
def test_a_point_at_no_place_contributes_nothing(backend: Backend, value: float) -> None:
    case = make_case(4, groups=2, group_channels=8)
    nowhere = case.offset.clone().view(*case.offset.shape[:3], 2, 9, 2)
    nowhere[:, :, :, 0, 4, 1] = value
    without = case.mask.clone().view(*case.mask.shape[:3], 2, 9)
    without[:, :, :, 0, 4] = 0
    got_case = case.with_tensors(case.input, nowhere.flatten(-3), case.mask)
    torch.testing.assert_close(
        run(got_case, backend), run(case.with_tensors(case.input, case.offset, without.flatten(-2)), backend)
    )
    grads = gradients(got_case, torch.ones_like(case.input), backend)
    assert all(grad.isfinite().all() for grad in grads)
    assert (grads[1].view_as(nowhere)[:, :, :, 0, 4] == 0).all()
    assert (grads[2].view_as(without)[:, :, :, 0, 4] == 0).all()


@both_backends
def test_pixels_that_no_point_touches_are_not_read(backend: Backend) -> None:
    case = make_case(5, n=1, size=(5, 5), spread=0.2)
    poisoned = case.input.clone()
    poisoned[:, 0, 0] = float("inf")
    got = run(case.with_tensors(poisoned, case.offset + 50, case.mask), backend)
    assert (got == 0).all()
    far = run(case.with_tensors(poisoned, case.offset * 0, case.mask), backend)[:, 3:, 3:]
    assert far.isfinite().all()


@both_backends
@pytest.mark.parametrize("shape", ["batch", "single pixel", "one channel"])
def test_degenerate_sizes_work(backend: Backend, shape: str) -> None:
    case = {
        "batch": make_case(6, n=0),
        "single pixel": make_case(6, size=(1, 1)),
        "one channel": make_case(6, groups=1, group_channels=1),
    }[shape]
    output = run(case, backend)
    assert output.shape == (case.input.shape[0], *case.offset.shape[1:3], case.input.shape[3])
    grads = gradients(case, torch.ones_like(output), backend)
    assert [grad.shape for grad in grads] == [tensor.shape for tensor in case.tensors]


@both_backends
def test_any_layout_of_memory_gives_the_same(backend: Backend) -> None:
    case = make_case(7, n=2, groups=2, group_channels=16)
    expected = run(case, backend)
    images_first = case.input.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    joined = torch.cat([case.offset, case.mask], dim=-1)
    points = case.offset.shape[-1]
    views = (joined[..., :points], joined[..., points:])
    every_second = torch.stack([case.offset, case.offset], dim=-1).flatten(-2)[..., ::2]
    assert not images_first.is_contiguous()
    assert not views[0].is_contiguous()
    for offset, mask in (views, (every_second, case.mask)):
        other = case.with_tensors(images_first, offset, mask)
        assert torch.equal(run(other, backend), expected)
        grad_output = torch.randn(expected.permute(0, 3, 1, 2).shape).permute(0, 2, 3, 1)
        for got, want in zip(
            gradients(other, grad_output, backend), gradients(case, grad_output.contiguous(), backend), strict=True
        ):
            torch.testing.assert_close(got, want)
    expanded = case.input[:1].expand(2, -1, -1, -1)
    torch.testing.assert_close(
        run(case.with_tensors(expanded, case.offset, case.mask), backend),
        run(case.with_tensors(expanded.contiguous(), case.offset, case.mask), backend),
    )


@given(dcnv3_cases())
@settings(max_examples=10, deadline=None)
def test_the_number_of_threads_changes_no_bit(case: Case) -> None:
    grad_output = torch.ones_like(run(case, "native"))
    assert_same_for_any_threads(lambda: (run(case, "native"), *gradients(case, grad_output, "native")))


@both_backends
def test_autocast_takes_the_widest_dtype(backend: Backend) -> None:
    case = make_case(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = run(case.with_tensors(case.input.bfloat16(), case.offset, case.mask.bfloat16()), backend)
        halves = run(case.with_tensors(*(tensor.bfloat16() for tensor in case.tensors)), backend)
    assert mixed.dtype == torch.float32  # offsets came in float32: not rounded
    assert halves.dtype == torch.bfloat16
    rounded = case.with_tensors(case.input.bfloat16().float(), case.offset, case.mask.bfloat16().float())
    torch.testing.assert_close(mixed, run(rounded, backend))


@both_backends
def test_works_under_function_transforms(backend: Backend) -> None:
    case = make_case(9, n=2, size=(4, 4))

    def loss(input: Tensor) -> Tensor:
        with use_backend(backend):
            return dcnv3(input, case.offset, case.mask, **case.options).square().sum()

    leaf = case.input.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(case.input), expected)
    per_sample = torch.func.vmap(lambda i, o, m: run(Case(i[None], o[None], m[None], case.geometry), backend)[0])(
        *case.tensors
    )
    torch.testing.assert_close(per_sample, run(case, backend))


def test_the_backend_is_chosen_for_a_block() -> None:
    before = get_backend()
    with use_backend("torch"):
        assert get_backend() == "torch"
        with use_backend("native"):
            assert get_backend() == "native"
        assert get_backend() == "torch"
    assert get_backend() == before
    with pytest.raises(ValueError, match="'auto', 'native', 'torch'"), use_backend("cuda"):  # type: ignore[arg-type]
        pass


def test_the_environment_sets_the_backend_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERNIMAGE_BACKEND", "torch")
    assert runpy.run_path(backend_module.__file__)["get_backend"]() == "torch"
    monkeypatch.setenv("INTERNIMAGE_BACKEND", "fast")
    with pytest.raises(ValueError, match="INTERNIMAGE_BACKEND: got 'fast', expected one of 'auto'"):
        runpy.run_path(backend_module.__file__)


def test_an_operator_of_another_version_is_refused() -> None:
    case = make_case(10)
    for backend in BACKENDS:
        run(case, backend)  # the kernel is loaded
    with pytest.raises(RuntimeError, match=f"version {SCHEMA_VERSION + 1}"):
        torch.ops.internimage.dcnv3(*case.tensors, *case.geometry, SCHEMA_VERSION + 1)


CASE = make_case(11, n=2, size=(6, 7), groups=2, group_channels=4)
BAD_CALLS = {
    "rank": ((CASE.input[0], CASE.offset, CASE.mask), {}, r"input must have 4 dimensions.*permute"),
    "channels": (CASE.tensors, {"groups": 3}, r"8 channels and 3 groups; nearest that fits: groups=2"),
    "offset size": ((CASE.input, CASE.offset[:, :-1], CASE.mask), {}, r"offset must.*\(2, 6, 7, 36\).*got \(2, 5"),
    "mask channels": ((CASE.input, CASE.offset, CASE.mask[..., :-1]), {}, r"mask must have shape \(2, 6, 7, 18\)"),
    "batch": ((CASE.input[:1], CASE.offset, CASE.mask), {}, r"offset must have shape \(1, "),
    "dtypes": ((CASE.input, CASE.offset.double(), CASE.mask), {}, r"one dtype.*float64.*\.to\(\)"),
    "integers": ((CASE.input.int(), CASE.offset, CASE.mask), {}, r"got torch.int32; convert it with .float\(\)"),
    "devices": ((CASE.input, CASE.offset.to("meta"), CASE.mask), {}, r"one device.*offset on meta"),
    "kernel": (CASE.tensors, {"kernel_size": 0}, r"kernel_size must be an int or a pair.*at least 1, got 0"),
    "pair": (CASE.tensors, {"stride": (1, 2, 3)}, r"stride must be an int or a pair"),
    "too small": (CASE.tensors, {"kernel_size": 11}, r"does not fit.*raise padding"),
    "no centre": (CASE.tensors, {"kernel_size": 2, "remove_center": True}, r"needs a kernel with a centre"),
    "no tap": (CASE.tensors, {"kernel_size": 1, "padding": 0, "remove_center": True}, r"leaves no tap"),
}  # fmt: skip


@pytest.mark.parametrize("call", BAD_CALLS)
def test_a_bad_call_says_what_is_wrong_and_how_to_mend_it(call: str) -> None:
    tensors, options, message = BAD_CALLS[call]
    with pytest.raises(ValueError, match=message):
        dcnv3(*tensors, **{"groups": 2, **options})


def test_the_operator_itself_refuses_what_would_read_foreign_memory() -> None:
    run(CASE, "native")
    short = CASE.offset[..., :-2]
    with pytest.raises(RuntimeError, match="offset must be"):
        torch.ops.internimage.dcnv3(CASE.input, short, CASE.mask, *CASE.geometry, SCHEMA_VERSION)
