"""RoIAlign: values and gradients, against independent truths, and as torch's compiler and exporter see it."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from golden_heads import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_checks import assert_no_opaque_operator, assert_same_for_any_threads
from roi_strategies import RoICase, make_roi_case, roi_cases
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from internimage.ops import roi_align, use_backend
from internimage.ops.backend import Backend
from internimage.ops.schema import SCHEMA_VERSION

BACKENDS: tuple[Backend, ...] = ("native", "torch")
HALVES = (torch.float16, torch.bfloat16)

both_backends = pytest.mark.parametrize("backend", BACKENDS)


def run(case: RoICase, backend: Backend) -> Tensor:
    with use_backend(backend):
        return case.run()


def gradient(case: RoICase, grad_output: Tensor, backend: Backend) -> Tensor:
    leaf = case.input.detach().requires_grad_()
    with use_backend(backend):
        return torch.autograd.grad(case.run(leaf), leaf, grad_output)[0]


def waves(like: Tensor) -> Tensor:
    return torch.cos(torch.arange(like.numel(), dtype=torch.float64)).view_as(like)


def sample(map: Tensor, y: float, x: float) -> Tensor:
    height, width = map.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros(map.shape[0], dtype=map.dtype)
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = map[:, top, left] * (1 - (x - left)) + map[:, top, right] * (x - left)
    lower = map[:, bottom, left] * (1 - (x - left)) + map[:, bottom, right] * (x - left)
    return upper * (1 - (y - top)) + lower * (y - top)


def one_sample_after_the_other(case: RoICase) -> Tensor:
    (rows, columns), scale, ratio, aligned = case.grid
    output = torch.zeros(len(case.rois), case.input.shape[1], rows, columns, dtype=case.input.dtype)
    for roi, (index, *corners) in enumerate(case.rois.tolist()):
        if index < 0:
            continue
        x1, y1, x2, y2 = (corner * scale - aligned * 0.5 for corner in corners)
        height, width = (size if aligned else max(size, 1) for size in (y2 - y1, x2 - x1))
        down, across = (ratio or math.ceil(height / rows), ratio or math.ceil(width / columns))
        for row in range(rows):
            for column in range(columns):
                for i in range(down):
                    for j in range(across):
                        y = y1 + (row + (i + 0.5) / down) * height / rows
                        x = x1 + (column + (j + 0.5) / across) * width / columns
                        output[roi, :, row, column] += sample(case.input[int(index)], y, x) / (down * across)
    return output


@both_backends
@pytest.mark.parametrize(
    ("bins", "ratio", "name"), [(7, 0, "7_stride4"), (14, 0, "14_stride4"), (7, 2, "7_stride4_ratio2")]
)
def test_matches_the_released_operation(backend: Backend, bins: int, ratio: int, name: str) -> None:
    stored = golden("parts")
    with use_backend(backend):
        output = roi_align(stored["in/roi_feat"], stored["in/rois"], bins, spatial_scale=0.25, sampling_ratio=ratio)
    torch.testing.assert_close(output, stored[f"out/roi_align_{name}"], rtol=0, atol=1e-6)


@given(roi_cases(dtype=torch.float64), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_kernel_equals_the_definition(case: RoICase, channels_last: bool) -> None:
    if channels_last:
        case = replace(case, input=case.input.contiguous(memory_format=torch.channels_last))
    expected = run(case, "torch")
    torch.testing.assert_close(run(case, "native"), expected, rtol=1e-10, atol=1e-10)
    found, wanted = (gradient(case, waves(expected), backend) for backend in BACKENDS)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@both_backends
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 3])
def test_equals_one_sample_after_the_other(backend: Backend, aligned: bool, ratio: int) -> None:
    for seed in range(3):
        case = make_roi_case(seed, sampling_ratio=ratio, aligned=aligned, dtype=torch.float64)
        torch.testing.assert_close(run(case, backend), one_sample_after_the_other(case), rtol=1e-10, atol=1e-10)


@both_backends
@given(roi_cases())
@settings(max_examples=40, deadline=None)
def test_equals_torchvision(backend: Backend, case: RoICase) -> None:
    torchvision = pytest.importorskip("torchvision", reason="needs torchvision: pip install torchvision")
    case = replace(case, rois=case.rois[case.rois[:, 0] >= 0])
    leaf = case.input.clone().requires_grad_()
    expected = torchvision.ops.roi_align(leaf, case.rois, **case.options)
    torch.testing.assert_close(run(case, backend), expected, rtol=1e-5, atol=1e-5)
    (wanted,) = torch.autograd.grad(expected, leaf, waves(expected).float())
    torch.testing.assert_close(gradient(case, waves(expected).float(), backend), wanted, rtol=1e-4, atol=1e-4)


def near_a_whole_number(values: Tensor) -> bool:
    return bool(((values - values.round()).abs() < 1e-4).any())


@given(roi_cases(), st.sampled_from([torch.float32, *HALVES]))
@settings(max_examples=40, deadline=None)
def test_lower_precision_stays_near_float64(case: RoICase, dtype: torch.dtype) -> None:
    """The error is that of rounding the result once: sums are float32, and coordinates as well."""
    scale = 0.25  # exact, so that a bin has as many samples in all types
    case = replace(case.to(dtype), grid=case.grid._replace(spatial_scale=scale))
    exact = case.to(torch.float64)
    sizes = (case.rois[:, 3:] - case.rois[:, 1:3]) * scale
    if case.grid.sampling_ratio == 0 and any(near_a_whole_number(sizes / bins) for bins in range(1, 10)):
        return  # on the edge between two numbers of samples
    expected = run(exact, "torch")
    epsilon = torch.finfo(dtype).eps
    for backend in BACKENDS:
        found = run(case, backend)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, rtol=2 * epsilon, atol=4 * epsilon + 1e-4)
        grad = gradient(case, waves(expected).to(dtype), backend)
        wanted = gradient(exact, waves(expected).to(dtype).double(), "torch")
        assert grad.dtype == dtype
        assert (grad.double() - wanted).norm() <= (4 * epsilon + 1e-4) * wanted.norm() + 1e-3


@both_backends
@given(roi_cases(dtype=torch.float64))
@settings(max_examples=10, deadline=None)
def test_gradients_match_finite_differences(backend: Backend, case: RoICase) -> None:
    with use_backend(backend):
        assert torch.autograd.gradcheck(case.run, case.input.requires_grad_(), fast_mode=True)


@both_backends
def test_second_derivatives_match_finite_differences(backend: Backend) -> None:
    case = make_roi_case(0, channels=2, dtype=torch.float64)
    with use_backend(backend):
        assert torch.autograd.gradgradcheck(
            lambda input: case.run(input).square(), case.input.requires_grad_(), fast_mode=True
        )


@both_backends
def test_a_constant_map_gives_the_constant_wherever_a_roi_lies_inside(backend: Backend) -> None:
    case = make_roi_case(1)
    inside = torch.tensor([[0.0, 4.0, 8.0, 40.0, 30.0], [1.0, 10.0, 3.0, 11.0, 4.5]])
    output = run(replace(case, input=torch.full_like(case.input, 3.0), rois=inside), backend)
    torch.testing.assert_close(output, torch.full_like(output, 3.0))


@both_backends
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("index", [-1.0, 2.0, 1e30, float("nan"), float("-inf")])
def test_a_roi_of_no_image_gives_nothing(backend: Backend, index: float, ratio: int) -> None:
    case = make_roi_case(2, n=2, sampling_ratio=ratio)
    rois = case.rois.clone()
    rois[:, 0] = torch.tensor([0.0, 1.0, index, 0.0, index, 1.0])
    output = run(replace(case, rois=rois), backend)
    present = torch.tensor([0, 1, 3, 5])
    torch.testing.assert_close(output[present], run(replace(case, rois=rois[present]), backend))
    assert not output[[2, 4]].any()
    grad = gradient(replace(case, rois=rois), torch.ones_like(output), backend)
    torch.testing.assert_close(
        grad, gradient(replace(case, rois=rois[present]), torch.ones_like(output[present]), backend)
    )


@both_backends
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("place", [float("nan"), float("inf"), float("-inf")])
def test_a_roi_at_no_place_gives_nothing(backend: Backend, place: float, ratio: int) -> None:
    case = make_roi_case(3, sampling_ratio=ratio)
    rois = case.rois.clone()
    rois[:, 0], rois[:, 3] = 0, place
    output = run(replace(case, rois=rois), backend)
    assert not output.any()
    assert not gradient(replace(case, rois=rois), torch.ones_like(output), backend).any()


def test_a_roi_of_astronomic_size_takes_no_time_of_its_own() -> None:
    case = make_roi_case(4, rois=1)
    case.rois[0] = torch.tensor([0.0, -1e12, -1e12, 1e12, 1e12])
    assert run(case, "native").isfinite().all()


@both_backends
def test_degenerate_sizes_work(backend: Backend) -> None:
    for sizes in (
        {"rois": 0},
        {"n": 1, "channels": 1, "size": (1, 1), "rois": 1},
        {"channels": 0},
        {"n": 0, "rois": 0},
    ):
        case = make_roi_case(5, **sizes)
        output = run(case, backend)
        assert output.shape == (len(case.rois), case.input.shape[1], 3, 4)
        assert gradient(case, torch.ones_like(output), backend).shape == case.input.shape


@both_backends
def test_any_layout_of_memory_gives_the_same(backend: Backend) -> None:
    case = make_roi_case(6, channels=40, n=2)
    expected = run(case, backend)
    grad_output = torch.randn_like(expected)
    wanted = gradient(case, grad_output, backend)
    for input in (
        case.input.contiguous(memory_format=torch.channels_last),
        case.input.transpose(2, 3).contiguous().transpose(2, 3),
        torch.cat((case.input, case.input), dim=1)[:, :40],
    ):
        other = replace(case, input=input, rois=case.rois.t().contiguous().t())
        torch.testing.assert_close(run(other, backend), expected)
        found = gradient(other, grad_output.transpose(0, 3).contiguous().transpose(0, 3), backend)
        torch.testing.assert_close(found, wanted)
        assert run(other, backend).is_contiguous()


@given(roi_cases())
@settings(max_examples=10, deadline=None)
def test_the_number_of_threads_changes_no_bit(case: RoICase) -> None:
    def compute() -> tuple[Tensor, Tensor]:
        output = run(case, "native")
        return output, gradient(case, torch.ones_like(output), "native")

    assert_same_for_any_threads(compute)


@both_backends
@pytest.mark.parametrize("dtype", HALVES)
def test_rois_keep_their_precision_beside_halves(backend: Backend, dtype: torch.dtype) -> None:
    case = make_roi_case(7, size=(2, 900), spatial_scale=1.0).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        found = run(case, backend)
    assert found.dtype == dtype
    exact = run(case.to(torch.float64), backend)
    torch.testing.assert_close(found.double(), exact, rtol=1e-2, atol=1e-2)


@both_backends
def test_no_gradient_goes_to_the_rois(backend: Backend) -> None:
    case = make_roi_case(8)
    case.rois.requires_grad_()
    assert not run(case, backend).requires_grad
    with use_backend(backend):
        case.run(case.input.requires_grad_()).sum().backward()
    assert case.rois.grad is None


@both_backends
def test_works_under_function_transforms(backend: Backend) -> None:
    case = make_roi_case(9)

    def loss(input: Tensor) -> Tensor:
        with use_backend(backend):
            return case.run(input).square().sum()

    leaf = case.input.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(case.input), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("operator", ["roi_align", "roi_align_backward"])
def test_opcheck(operator: str, dtype: torch.dtype) -> None:
    case = make_roi_case(10, dtype=dtype)
    output = run(case, "native")  # loads the kernel
    if operator == "roi_align":
        arguments: tuple[Any, ...] = (case.input.requires_grad_(), case.rois, *case.grid, SCHEMA_VERSION)
    else:
        arguments = (torch.ones_like(output), case.input, case.rois, *case.grid, False, SCHEMA_VERSION)
    torch.library.opcheck(getattr(torch.ops.internimage, operator).default, arguments)


class Pooled(torch.nn.Module):
    """RoIs of two levels, as a detector of fixed sizes pools them: those of the other level have no image."""

    def __init__(self, sampling_ratio: int = 0) -> None:
        super().__init__()
        self.sampling_ratio = sampling_ratio

    def forward(self, fine: Tensor, coarse: Tensor, rois: Tensor) -> Tensor:
        large = (rois[:, 3] - rois[:, 1]) > 16
        index, corners = rois[:, :1], rois[:, 1:]
        pooled = [
            roi_align(
                map,
                torch.cat((torch.where(chosen.unsqueeze(1), index, -1), corners), dim=1),
                3,
                spatial_scale=scale,
                sampling_ratio=self.sampling_ratio,
            )
            for map, chosen, scale in ((fine, ~large, 0.25), (coarse, large, 0.125))
        ]
        return pooled[0] + pooled[1]


def inputs(seed: int, n: int, size: tuple[int, int], rois: int) -> tuple[Tensor, Tensor, Tensor]:
    fine = make_roi_case(seed, n=n, size=(2 * size[0], 2 * size[1]), rois=rois)
    return fine.input, make_roi_case(seed + 1, n=n, size=size).input, fine.rois


@both_backends
def test_compiles_to_one_graph_for_all_sizes_forward_and_backward(backend: Backend) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(Pooled(), fullgraph=True, dynamic=True, backend="aot_eager")
    for seed, (n, size, rois) in enumerate([(6, (4, 7), 9), (3, (5, 11), 13)]):
        fine, coarse, boxes = inputs(seed, n, size, rois)
        leaves = [fine.requires_grad_(), coarse.requires_grad_()]
        with use_backend(backend):
            got, expected = compiled(fine, coarse, boxes), Pooled()(fine, coarse, boxes)
        torch.testing.assert_close(got, expected)
        grads, wanted = (torch.autograd.grad(output, leaves, torch.ones_like(output)) for output in (got, expected))
        torch.testing.assert_close(grads, wanted, rtol=1e-5, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_dynamic_sizes(strict: bool) -> None:
    dim = torch.export.Dim
    batch, height, width = dim("batch", min=2, max=64), dim("height", min=2, max=64), dim("width", min=2, max=64)
    maps = [{0: batch, 2: 2 * height, 3: 2 * width}, {0: batch, 2: height, 3: width}]
    with use_backend("native"):
        program = torch.export.export(
            Pooled(),
            inputs(0, 2, (4, 7), 9),
            dynamic_shapes=(*maps, {0: dim("rois", min=2, max=1000)}),
            strict=strict,
        )
    operator = torch.ops.internimage.roi_align.default
    assert [node.target for node in program.graph.nodes].count(operator) == 2
    other = inputs(1, 5, (3, 11), 20)
    torch.testing.assert_close(program.module()(*other), Pooled()(*other))


def test_the_torch_backend_leaves_no_opaque_operator_to_the_compiler_if_the_samples_are_given() -> None:
    torch._dynamo.reset()
    with use_backend("torch"):
        assert_no_opaque_operator(Pooled(2), *inputs(0, 2, (4, 7), 9))


def test_flops_are_counted_as_for_the_other_samplers() -> None:
    """5 multiply-adds per sample and channel, two operations each; 2 x 2 samples where the data decide."""
    for ratio, samples in ((0, 4), (3, 9)):
        case = make_roi_case(11, rois=6, channels=5, output_size=(3, 4), sampling_ratio=ratio)
        with use_backend("native"), FlopCounterMode(display=False) as counter:
            case.run(case.input.requires_grad_()).sum().backward()
        assert counter.get_total_flops() == 2 * (10 * 6 * 5 * 12 * samples)


CASE = make_roi_case(12)
BAD_CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "rank": ({"input": CASE.input[0]}, r"input must be \[N, C, H, W\].*got shape \(5, 9, 12\)"),
    "no pixels": ({"input": CASE.input[:, :, :0]}, r"at least one pixel, got shape \(2, 5, 0, 12\)"),
    "boxes": ({"rois": CASE.rois[:, 1:]}, r"rois must be \[K, 5\].*got shape \(6, 4\).*pad\(boxes, \(1, 0\)\)"),
    "integers": ({"input": CASE.input.int()}, r"input must be.*got torch.int32; convert it with .float\(\)"),
    "integer rois": ({"rois": CASE.rois.int()}, r"rois must be.*got torch.int32"),
    "devices": ({"rois": CASE.rois.to("meta")}, r"one device, got input on cpu and rois on meta"),
    "bins": ({"output_size": (7, 0)}, r"output_size must be .* got \(7, 0\)"),
    "samples": ({"sampling_ratio": -1}, r"sampling_ratio must be an int of at least 0, got -1"),
    "scale": ({"spatial_scale": 0.0}, r"spatial_scale must be a positive number, got 0.0; .* 1 / 4"),
}


@pytest.mark.parametrize("call", BAD_CALLS)
def test_a_bad_call_says_what_is_wrong_and_how_to_mend_it(call: str) -> None:
    changes, message = BAD_CALLS[call]
    with pytest.raises(ValueError, match=message):
        roi_align(**{"input": CASE.input, "rois": CASE.rois, **CASE.options, **changes})


@pytest.mark.parametrize(
    ("rois", "bins", "message"),
    [
        (CASE.rois[:, 1:], [3, 4], "rois"),
        (CASE.rois.double(), [3, 4], "rois must be float32"),
        (CASE.rois, [3, 0], "two positive integers"),
    ],
)
def test_the_operator_itself_refuses_what_would_read_foreign_memory(
    rois: Tensor, bins: list[int], message: str
) -> None:
    run(CASE, "native")
    with pytest.raises(RuntimeError, match=message):
        torch.ops.internimage.roi_align(CASE.input, rois, bins, 0.25, 0, True, SCHEMA_VERSION)


def test_an_operator_of_another_version_is_refused() -> None:
    run(CASE, "native")
    with pytest.raises(RuntimeError, match=f"version {SCHEMA_VERSION + 1}"):
        torch.ops.internimage.roi_align(CASE.input, CASE.rois, *CASE.grid, SCHEMA_VERSION + 1)
