"""The CUDA kernels of RoIAlign and non-maximum suppression, built by a host compiler and run on the CPU."""

import ctypes
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from cuda_emulation import (
    ACCUMULATORS,
    DTYPES,
    SANITIZE,
    assert_close,
    assert_equal,
    load,
    pointers,
    run_under_sanitizers,
)
from roi_strategies import RoICase, make_roi_case
from torch import Tensor

from internimage.ops import nms_reference, roi_align_reference
from internimage.ops.build import SOURCES

pytestmark = pytest.mark.once

CASES: dict[str, dict[str, Any]] = {
    "adaptive": {},
    "not aligned": {"aligned": False, "spread": 0.1},
    "3 samples": {"sampling_ratio": 3},
    "far outside": {"spread": 3.0},
    "1 pixel": {"size": (1, 1)},
    "1 channel": {"channels": 1, "output_size": (7, 7)},
    "1 bin": {"output_size": (1, 1), "n": 1},
    "odd scale": {"spatial_scale": 0.3, "size": (11, 5)},
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return load(SOURCES / "roi_align.cu", tmp_path_factory.mktemp("roi_align"))


@pytest.fixture(scope="module")
def many_launches(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """With a launch for each RoI as if it were all that 32 bits can number."""
    return load(SOURCES / "roi_align.cu", tmp_path_factory.mktemp("many"), "-DINTERNIMAGE_MOST_ITEMS=1")


@pytest.fixture(scope="module")
def nms_library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return load(SOURCES / "nms.cu", tmp_path_factory.mktemp("nms"))


@pytest.fixture
def kernels(library: ctypes.CDLL) -> ctypes.CDLL:
    library.emulation_seed(0)
    library.emulation_most_blocks(0)
    return library


def numbers(case: RoICase) -> list[Any]:
    """The options of a call, in the launchers' order."""
    (rows, columns), scale, ratio, aligned = case.grid
    sizes = [*case.input.shape, len(case.rois), rows, columns]
    return [*map(ctypes.c_int64, sizes), ctypes.c_double(scale), ctypes.c_int64(ratio), ctypes.c_int(aligned)]


def run_forward(kernels: ctypes.CDLL, case: RoICase) -> Tensor:
    output = case.input.new_full((len(case.rois), case.input.shape[1], *case.grid.output_size), torch.nan)
    code = ctypes.c_int(DTYPES.index(case.input.dtype))
    arguments = [code, *pointers(case.input, case.rois, output), *numbers(case), None]
    assert kernels.internimage_roi_align_forward_cuda(*arguments) == 0, kernels.emulation_error()
    return output


def run_backward(kernels: ctypes.CDLL, case: RoICase, grad_output: Tensor, deterministic: bool) -> Tensor:
    """The gradient in the accumulator's dtype."""
    grad = torch.zeros_like(case.input, dtype=ACCUMULATORS[case.input.dtype])
    code = ctypes.c_int(DTYPES.index(case.input.dtype))
    arguments = [code, *pointers(grad_output, case.rois, grad), *numbers(case), ctypes.c_int(deterministic), None]
    assert kernels.internimage_roi_align_backward_cuda(*arguments) == 0, kernels.emulation_error()
    return grad


def make(name: str, dtype: torch.dtype = torch.float32) -> tuple[RoICase, Tensor]:
    """One of `CASES` and a gradient of its output."""
    case = make_roi_case(0, dtype=dtype, **CASES[name])
    shape = (len(case.rois), case.input.shape[1], *case.grid.output_size)
    return case, torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def assert_equal_to_the_definition(kernels: ctypes.CDLL, name: str, dtype: torch.dtype) -> None:
    case, grad_output = make(name, dtype)
    # In the arithmetic type on the very numbers that the kernel gets: float64 may have another number of samples.
    input, rois, grid = case.input.to(ACCUMULATORS[dtype]), case.rois, case.grid
    assert_close(run_forward(kernels, case), roi_align_reference.roi_align(input, rois, grid).double())
    grad = grad_output.to(input.dtype)
    wanted = roi_align_reference.roi_align_backward(grad, input, rois, grid).double()
    for deterministic in (False, True):
        assert_close(run_backward(kernels, case, grad_output, deterministic), wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_kernels_equal_the_definition(kernels: ctypes.CDLL, name: str, dtype: torch.dtype) -> None:
    kernels.emulation_seed(DTYPES.index(dtype) + 4 * list(CASES).index(name))
    assert_equal_to_the_definition(kernels, name, dtype)


def test_many_launches_give_the_same(many_launches: ctypes.CDLL) -> None:
    before = many_launches.emulation_launches()
    assert_equal_to_the_definition(many_launches, "adaptive", torch.float32)
    assert many_launches.emulation_launches() - before == 6 + 6 + 10  # RoIs twice, then the planes of the input


def test_a_small_grid_does_all_the_work(kernels: ctypes.CDLL) -> None:
    kernels.emulation_most_blocks(1)
    assert_equal_to_the_definition(kernels, "adaptive", torch.float32)


def test_the_order_of_threads_matters_only_to_atomic_additions(kernels: ctypes.CDLL) -> None:
    case, grad_output = make("adaptive")
    for deterministic in (False, True):
        found = []
        for seed in range(3):
            kernels.emulation_seed(seed)
            found.append(run_backward(kernels, case, grad_output, deterministic))
        torch.testing.assert_close(found[1:], [found[0]] * 2)
        assert all(torch.equal(other, found[0]) for other in found[1:]) == deterministic


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_rois_at_no_place_or_of_no_image_give_nothing(kernels: ctypes.CDLL, value: float) -> None:
    for column in range(4 if abs(value) == 1e30 else 5):
        case, grad_output = make("adaptive")
        case.rois[:, 0], case.rois[:, column] = 0, value
        if column != 0 and value == 1e30:
            assert run_forward(kernels, case).isfinite().all()
            continue
        assert not run_forward(kernels, case).any()
        for deterministic in (False, True):
            assert not run_backward(kernels, case, grad_output, deterministic).any()


def test_what_cannot_be_computed_is_refused_and_nothing_launched(kernels: ctypes.CDLL) -> None:
    case, grad_output = make("adaptive")
    before = kernels.emulation_launches()
    invalid = 1  # cudaErrorInvalidValue
    tensors, sizes = pointers(case.input, case.rois, grad_output), numbers(case)

    def forward(dtype: int, tensors: list[Any], sizes: list[Any]) -> int:
        return int(kernels.internimage_roi_align_forward_cuda(ctypes.c_int(dtype), *tensors, *sizes, None))

    assert forward(4, tensors, sizes) == invalid
    for i in range(3):
        assert forward(0, [*tensors[:i], None, *tensors[i + 1 :]], sizes) == invalid
        missing = [*tensors[:i], None, *tensors[i + 1 :], *sizes, ctypes.c_int(0), None]
        assert kernels.internimage_roi_align_backward_cuda(ctypes.c_int(0), *missing) == invalid
    for i in range(1, 7):  # all sizes but the number of images
        assert forward(0, tensors, [*sizes[:i], ctypes.c_int64(2**40), *sizes[i + 1 :]]) == invalid
    assert kernels.emulation_launches() == before


def make_boxes(count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    centres = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 60
    half = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 15
    boxes = torch.cat((centres - half, centres + half), dim=1).to(dtype)
    boxes[3::17, 2:] = boxes[3::17, :2]  # no area
    boxes[5::23, 1] = torch.nan
    return boxes, torch.randint(-1, 3, (count,), generator=generator).sort().values


def run_nms(kernels: ctypes.CDLL, boxes: Tensor, groups: Tensor, threshold: float) -> Tensor:
    count, words = len(boxes), (len(boxes) + 31) // 32
    scratch = torch.randint(-(2**31), 2**31, (count + 1, words), dtype=torch.int32)  # what memory may hold
    kept = torch.ones(count, dtype=torch.bool)
    code = ctypes.c_int(DTYPES.index(boxes.dtype))
    sizes = ctypes.c_int64(count), ctypes.c_double(threshold), None
    assert kernels.internimage_nms_cuda(code, *pointers(boxes, groups, scratch, kept), *sizes) == 0, (
        kernels.emulation_error()
    )
    return kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 100, 300])
def test_suppression_equals_the_definition(nms_library: ctypes.CDLL, count: int, dtype: torch.dtype) -> None:
    nms_library.emulation_seed(count)
    boxes, groups = make_boxes(count, dtype)
    for threshold in (0.0, 0.3, 0.7):
        expected = nms_reference.nms(boxes, groups, threshold)
        assert_equal([run_nms(nms_library, boxes, groups, threshold)], [expected])


def test_suppression_refuses_what_it_cannot_compute(nms_library: ctypes.CDLL) -> None:
    boxes, groups = make_boxes(3, torch.float32)
    before = nms_library.emulation_launches()
    tensors = pointers(boxes, groups, groups, groups)
    for dtype, count in ((1, 3), (0, 2**40), (0, -1)):
        sizes = ctypes.c_int64(count), ctypes.c_double(0.5), None
        assert nms_library.internimage_nms_cuda(ctypes.c_int(dtype), *tensors, *sizes) == 1
    for i in range(4):
        missing = [*tensors[:i], None, *tensors[i + 1 :], ctypes.c_int64(3), ctypes.c_double(0.5), None]
        assert nms_library.internimage_nms_cuda(ctypes.c_int(0), *missing) == 1
    assert nms_library.emulation_launches() == before


@pytest.mark.skipif(bool(os.environ.get(SANITIZE)), reason="this is the run under the sanitizers")
def test_kernels_run_clean_under_the_sanitizers() -> None:
    run_under_sanitizers(Path(__file__), "torch.float16 and adaptive or nan or 33 and float32")
