"""The CUDA kernels of multi-scale deformable attention without a GPU: see `cuda_emulation.h`."""

import ctypes
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_strategies import AttentionCase, make_attention_case
from cuda_emulation import (
    ACCUMULATORS,
    DTYPES,
    SANITIZE,
    assert_all_close,
    assert_close,
    assert_equal,
    load,
    pointers,
    run_under_sanitizers,
)
from torch import Tensor

from internimage.ops import ms_deform_attn_reference as reference
from internimage.ops.build import SOURCES
from internimage.ops.levels import Levels

pytestmark = pytest.mark.once

CASES: dict[str, dict[str, Any]] = {  # every path of the launchers, odd sizes
    "16 channels": {"head_channels": 16},
    "32 channels": {"head_channels": 32, "heads": 3, "queries": 5},
    "72 channels": {"head_channels": 72, "heads": 1, "queries": 3},
    "1 channel": {"head_channels": 1, "heads": 5},
    "3 channels": {"head_channels": 3},
    "6 channels": {"head_channels": 6, "points": 2},
    "12 channels": {"head_channels": 12},
    "3 points": {"head_channels": 8, "points": 3},
    "1 point": {"head_channels": 16, "points": 1},
    "1 level": {"shapes": ((7, 3),), "head_channels": 16},
    "5 levels": {"shapes": ((3, 4), (1, 1), (2, 5), (4, 1), (1, 7))},
    "far outside": {"head_channels": 8, "spread": 5.0},
    "1 query": {"head_channels": 16, "n": 3, "queries": 1},
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels and launchers as for devices of capability 9.0 and later."""
    folder = tmp_path_factory.mktemp("later")
    return load(SOURCES / "ms_deform_attn.cu", folder, "-DINTERNIMAGE_VECTOR_ATOMICS=1")


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """As for earlier devices, with a launch for each query as if it were all that 32 bits can number."""
    flags = "-DINTERNIMAGE_VECTOR_ATOMICS=0", "-DINTERNIMAGE_MOST_ITEMS=1"
    return load(SOURCES / "ms_deform_attn.cu", tmp_path_factory.mktemp("earlier"), *flags)


@pytest.fixture
def kernels(library: ctypes.CDLL) -> ctypes.CDLL:
    library.emulation_seed(0)
    library.emulation_most_blocks(0)
    return library


def numbers(case: AttentionCase) -> list[Any]:
    """The sizes of a call, in the launchers' order."""
    n, queries, heads, levels, points = case.weights.shape
    sizes = [n, case.value.shape[1], heads, case.value.shape[3], queries, levels, points]
    return [*map(ctypes.c_int64, sizes), (ctypes.c_int64 * (2 * levels))(*case.flat_shapes)]


def run_forward(kernels: ctypes.CDLL, case: AttentionCase) -> Tensor:
    output = case.value.new_full((*case.weights.shape[:2], case.value.shape[2] * case.value.shape[3]), torch.nan)
    arguments = [ctypes.c_int(DTYPES.index(output.dtype)), *pointers(*case.tensors, output), *numbers(case), None]
    assert kernels.internimage_ms_deform_attn_forward_cuda(*arguments) == 0, kernels.emulation_error()
    return output


def run_backward(
    kernels: ctypes.CDLL, case: AttentionCase, grad_output: Tensor, deterministic: bool = False
) -> list[Tensor]:
    """Gradients of value (in the accumulator's dtype), locations and weights."""
    grads = [torch.zeros_like(case.value, dtype=ACCUMULATORS[case.value.dtype])]
    grads += [torch.full_like(tensor, torch.nan) for tensor in (case.locations, case.weights)]
    arguments = [*pointers(grad_output, *case.tensors, *grads), *numbers(case), ctypes.c_int(deterministic), None]
    code = ctypes.c_int(DTYPES.index(case.value.dtype))
    assert kernels.internimage_ms_deform_attn_backward_cuda(code, *arguments) == 0, kernels.emulation_error()
    return grads


def run_all(
    kernels: ctypes.CDLL, case: AttentionCase, grad_output: Tensor, deterministic: bool = False
) -> list[Tensor]:
    return [run_forward(kernels, case), *run_backward(kernels, case, grad_output, deterministic)]


def make(name: str, dtype: torch.dtype = torch.float32, **changes: Any) -> tuple[AttentionCase, Tensor]:
    """One of `CASES` and a gradient of its output."""
    case = make_attention_case(0, dtype=dtype, **{**CASES[name], **changes})
    shape = (*case.weights.shape[:2], case.value.shape[2] * case.value.shape[3])
    return case, torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def expected(case: AttentionCase, grad_output: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The definition and its derivatives by autograd, in float64 on the very numbers that the kernel gets."""
    tensors = [tensor.double().requires_grad_() for tensor in case.tensors]
    output = reference.ms_deform_attn(*tensors, Levels(tuple(case.flat_shapes)))
    return output.detach(), torch.autograd.grad(output, tensors, grad_output.double())


def assert_equal_to_the_definition(kernels: ctypes.CDLL, name: str, dtype: torch.dtype) -> None:
    case, grad_output = make(name, dtype)
    output, grads = expected(case, grad_output)
    assert_close(run_forward(kernels, case), output)
    for deterministic in (False, True):
        assert_all_close(run_backward(kernels, case, grad_output, deterministic), grads)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_kernels_equal_the_definition(kernels: ctypes.CDLL, name: str, dtype: torch.dtype) -> None:
    kernels.emulation_seed(DTYPES.index(dtype) + 4 * list(CASES).index(name))
    assert_equal_to_the_definition(kernels, name, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["16 channels", "3 channels", "5 levels"])
def test_scalar_atomics_and_many_launches_give_the_same(earlier: ctypes.CDLL, name: str, dtype: torch.dtype) -> None:
    before = earlier.emulation_launches()
    assert_equal_to_the_definition(earlier, name, dtype)
    assert earlier.emulation_launches() - before > 10


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", ["16 channels", "72 channels"])
def test_the_order_of_threads_matters_only_to_atomic_additions(
    kernels: ctypes.CDLL, name: str, deterministic: bool
) -> None:
    case, grad_output = make(name, n=1, queries=20)
    output, grad_value, *grads = run_all(kernels, case, grad_output, deterministic)
    others = []
    for seed in (1, 2, 3):
        kernels.emulation_seed(seed)
        other_output, other_grad_value, *other_grads = run_all(kernels, case, grad_output, deterministic)
        assert_equal([output, *grads], [other_output, *other_grads])
        torch.testing.assert_close(grad_value, other_grad_value)
        others.append(other_grad_value)
    assert all(torch.equal(grad_value, other) for other in others) == deterministic


def test_a_small_grid_does_all_the_work(kernels: ctypes.CDLL) -> None:
    case, grad_output = make("16 channels", queries=40)
    full = run_all(kernels, case, grad_output, deterministic=True)
    kernels.emulation_most_blocks(1)
    assert_equal(run_all(kernels, case, grad_output, deterministic=True), full)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shift", [1, 2, 4])
def test_tensors_may_begin_at_any_element(kernels: ctypes.CDLL, shift: int, dtype: torch.dtype) -> None:
    def moved(tensor: Tensor) -> Tensor:
        return tensor.new_empty(tensor.numel() + shift)[shift:].view(tensor.shape).copy_(tensor)

    case, grad_output = make("16 channels", dtype)
    output, grads = expected(case, grad_output)
    shifted = case.with_tensors(*map(moved, case.tensors))
    assert_close(run_forward(kernels, shifted), output)
    assert_all_close(run_backward(kernels, shifted, moved(grad_output)), grads)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e30, -1e30])
@pytest.mark.parametrize("name", ["16 channels", "3 points"])
def test_points_at_no_place_count_as_outside(kernels: ctypes.CDLL, name: str, value: float) -> None:
    case, grad_output = make(name)
    chosen = torch.rand(case.locations.shape, generator=torch.Generator().manual_seed(2)) < 0.2

    def run(place: float) -> list[Tensor]:
        locations = torch.where(chosen, torch.tensor(place), case.locations)
        return run_all(kernels, case.with_tensors(case.value, locations, case.weights), grad_output, True)

    results = run(value)
    assert_equal(results, run(1000.0))
    assert not results[2][chosen].any()


def test_pixels_of_other_images_and_levels_are_not_read(kernels: ctypes.CDLL) -> None:
    case, grad_output = make("16 channels", n=3, spread=1.0)
    alone = AttentionCase(
        case.value[1:2, 30:36].contiguous(),
        case.shapes[1:2],
        *(tensor[1:2, :, :, 1:2].contiguous() for tensor in (case.locations, case.weights)),
    )
    poisoned = torch.full_like(case.value, torch.nan)
    poisoned[1, 30:36] = case.value[1, 30:36]
    only = torch.zeros_like(case.locations) - 1e30
    only[:, :, :, 1] = case.locations[:, :, :, 1]
    together = run_all(kernels, case.with_tensors(poisoned, only, case.weights), grad_output, deterministic=True)
    output, grad_value, grad_locations, grad_weights = (result[1:2] for result in together)
    found = [output, grad_value[:, 30:36], grad_locations[:, :, :, 1:2], grad_weights[:, :, :, 1:2]]
    assert_equal(found, run_all(kernels, alone, grad_output[1:2].contiguous(), deterministic=True))


def test_nan_in_the_weights_shows_in_its_head_alone(kernels: ctypes.CDLL) -> None:
    case, _ = make("16 channels")
    case.locations[1, 2] = 1e30  # even where no point is inside
    case.weights[1, 2, 1, 0, 3] = torch.nan
    is_nan = run_forward(kernels, case).unflatten(-1, (2, 16)).isnan()
    assert is_nan[1, 2, 1].all()
    assert is_nan.sum() == 16


@pytest.mark.parametrize("sizes", [{"n": 0}, {"queries": 0}, {"head_channels": 0}])
def test_nothing_gives_nothing(kernels: ctypes.CDLL, sizes: dict[str, int]) -> None:
    case, grad_output = make("16 channels", **sizes)
    for deterministic in (False, True):
        assert not any(result.any() for result in run_all(kernels, case, grad_output, deterministic))


def test_what_cannot_be_computed_is_refused_and_nothing_launched(kernels: ctypes.CDLL) -> None:
    case, grad_output = make("16 channels")
    before = kernels.emulation_launches()
    invalid = 1  # cudaErrorInvalidValue

    def forward(dtype: int, tensors: list[ctypes.c_void_p], sizes: list[Any]) -> int:
        return int(kernels.internimage_ms_deform_attn_forward_cuda(ctypes.c_int(dtype), *tensors, *sizes, None))

    tensors, sizes = pointers(*case.tensors, grad_output), numbers(case)
    assert forward(4, tensors, sizes) == invalid
    for i in range(4):
        assert forward(0, [*tensors[:i], None, *tensors[i + 1 :]], sizes) == invalid
    for i in (1, 3, 4, 6):  # pixels, channels, queries, points
        assert forward(0, tensors, [*sizes[:i], ctypes.c_int64(2**40), *sizes[i + 1 :]]) == invalid
    many, _ = make("16 channels", shapes=((2, 2),) * 17)
    assert forward(0, pointers(*many.tensors, grad_output), numbers(many)) == invalid
    everything = [*pointers(grad_output, *case.tensors), *pointers(*case.tensors)]
    for i in range(7):
        missing = [*everything[:i], None, *everything[i + 1 :]]
        arguments = [ctypes.c_int(0), *missing, *sizes, ctypes.c_int(0), None]
        assert kernels.internimage_ms_deform_attn_backward_cuda(*arguments) == invalid
    assert kernels.emulation_launches() == before


@pytest.mark.skipif(bool(os.environ.get(SANITIZE)), reason="this is the run under the sanitizers")
def test_kernels_run_clean_under_the_sanitizers() -> None:
    run_under_sanitizers(Path(__file__), "torch.float16 and (definition and (16 or 72 or 3) or begin_at)")
