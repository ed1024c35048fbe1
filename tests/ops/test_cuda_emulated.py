"""The CUDA kernels without a GPU: a host compiler builds the very source, and `cuda_emulation.h` runs its threads."""

import ctypes
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cuda_cases import DCNV3 as CASES
from cuda_emulation import (
    ACCUMULATORS,
    DTYPES,
    HERE,
    SANITIZE,
    SANITIZERS,
    assert_all_close,
    assert_close,
    assert_equal,
    build,
    load,
    pointers,
    run_under_sanitizers,
)
from strategies import Case, make_case
from torch import Tensor

from internimage.ops import reference
from internimage.ops.geometry import Geometry

pytestmark = pytest.mark.once

CSRC = Path(reference.__file__).parent / "csrc"
GOLDEN = HERE.parent / "data" / "golden"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels and launchers as for devices of capability 9.0 and later."""
    return load(CSRC / "dcnv3.cu", tmp_path_factory.mktemp("later"), "-DINTERNIMAGE_VECTOR_ATOMICS=1")


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """As for earlier devices, with a launch for each row of the output as if it were all that 32 bits can number."""
    flags = "-DINTERNIMAGE_VECTOR_ATOMICS=0", "-DINTERNIMAGE_MOST_ITEMS=1"
    return load(CSRC / "dcnv3.cu", tmp_path_factory.mktemp("earlier"), *flags)


@pytest.fixture
def kernels(library: ctypes.CDLL) -> ctypes.CDLL:
    library.emulation_seed(0)
    library.emulation_most_blocks(0)
    return library


def numbers(case: Case) -> list[object]:
    """The sizes and options of a call, in the launchers' order."""
    g, (n, h, w, channels) = case.geometry, case.input.shape
    sizes = [n, h, w, *case.offset.shape[1:3], g.groups, channels // g.groups]
    sizes += [*g.kernel_size, *g.stride, *g.padding, *g.dilation, case.offset.stride(2), case.mask.stride(2)]
    options = ctypes.c_double(g.offset_scale), ctypes.c_int(g.remove_center), ctypes.c_int(g.softmax)
    return [*map(ctypes.c_int64, sizes), *options]


def run_forward(kernels: ctypes.CDLL, case: Case) -> Tensor:
    output = case.input.new_full((*case.mask.shape[:3], case.input.shape[3]), torch.nan)
    code = ctypes.c_int(DTYPES.index(output.dtype))
    assert kernels.internimage_dcnv3_forward_cuda(code, *pointers(*case.tensors, output), *numbers(case), None) == 0
    return output


def run_backward(kernels: ctypes.CDLL, case: Case, grad_output: Tensor, deterministic: bool = False) -> list[Tensor]:
    """Gradients of input (in the accumulator's dtype), offset and mask (of their strides)."""
    grads = [torch.zeros_like(case.input, dtype=ACCUMULATORS[case.input.dtype])]
    grads += [
        inside_wider(torch.full_like(tensor, torch.nan), tensor.stride(2) - tensor.shape[3])
        for tensor in (case.offset, case.mask)
    ]
    arguments = [*pointers(grad_output, *case.tensors, *grads), *numbers(case), ctypes.c_int(deterministic)]
    code = ctypes.c_int(DTYPES.index(case.input.dtype))
    assert kernels.internimage_dcnv3_backward_cuda(code, *arguments, None) == 0
    return grads


def run_all(kernels: ctypes.CDLL, case: Case, grad_output: Tensor, deterministic: bool = False) -> list[Tensor]:
    return [run_forward(kernels, case), *run_backward(kernels, case, grad_output, deterministic)]


def inside_wider(tensor: Tensor, elements: int) -> Tensor:
    """The same values, with `elements` of NaN behind each pixel."""
    return F.pad(tensor, (0, elements), value=torch.nan)[..., : tensor.shape[3]]


def expected(case: Case, grad_output: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The definition and its derivatives by autograd, in float64 on the very numbers that the kernel gets."""
    input, offset, mask = (tensor.double().requires_grad_() for tensor in case.tensors)
    output = reference.dcnv3(input, offset, mask, case.geometry)
    return output.detach(), torch.autograd.grad(output, (input, offset, mask), grad_output.double())


def assert_equal_to_the_definition(kernels: ctypes.CDLL, name: str, dtype: torch.dtype) -> None:
    case, grad_output = make(name, dtype)
    output, grads = expected(case, grad_output)
    assert_close(run_forward(kernels, case), output)
    for deterministic in (False, True):
        assert_all_close(run_backward(kernels, case, grad_output, deterministic), grads)


def make(name: str, dtype: torch.dtype = torch.float32, **changes: Any) -> tuple[Case, Tensor]:
    """One of `CASES` and a gradient of its output."""
    case = make_case(0, dtype=dtype, **{"size": (5, 6), **CASES[name], **changes})
    shape = (*case.mask.shape[:3], case.input.shape[3])
    generator = torch.Generator().manual_seed(1)
    return case, torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_kernels_equal_the_definition(kernels: ctypes.CDLL, name: str, dtype: torch.dtype) -> None:
    kernels.emulation_seed(DTYPES.index(dtype) + 4 * list(CASES).index(name))
    assert_equal_to_the_definition(kernels, name, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["3x3 softmax", "3 channels", "5x3 dilated"])
def test_scalar_atomics_and_many_launches_give_the_same(earlier: ctypes.CDLL, name: str, dtype: torch.dtype) -> None:
    before = earlier.emulation_launches()
    assert_equal_to_the_definition(earlier, name, dtype)
    assert earlier.emulation_launches() - before > 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("op_*.npz")), ids=lambda path: str(path.stem))
def test_kernels_equal_the_golden_values(kernels: ctypes.CDLL, path: Path, dtype: torch.dtype) -> None:
    with np.load(path) as data:
        p = json.loads(str(data["params"]))
        golden = {name: torch.from_numpy(data[name]) for name in data.files if name != "params"}
    kernel, stride, padding, dilation = (
        (p[f"{name}_h"], p[f"{name}_w"]) for name in ("kernel", "stride", "pad", "dilation")
    )
    geometry = Geometry(
        kernel, stride, padding, dilation, p["group"], p["offset_scale"], bool(p["remove_center"]), softmax=False
    )
    input, offset, mask = (golden[name].to(dtype) for name in ("input", "offset", "mask"))
    case = Case(input, offset, mask, geometry)
    results = run_forward(kernels, case), *run_backward(kernels, case, golden["grad_output"].to(dtype))
    for name, actual in zip(("output", "grad_input", "grad_offset", "grad_mask"), results, strict=True):
        limit = 1e-10 if dtype == torch.float64 else 2e-6 if name in ("output", "grad_input") else 2e-5
        assert (actual.double() - golden[name]).abs().max() <= limit, name


@pytest.mark.parametrize("name", ["3x3", "3x3 softmax", "5 channels", "1 pixel"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_offset_and_mask_may_be_parts_of_wider_tensors(kernels: ctypes.CDLL, dtype: torch.dtype, name: str) -> None:
    case, grad_output = make(name, dtype)
    wide = case.with_tensors(case.input, inside_wider(case.offset, 3), inside_wider(case.mask, 5))
    assert wide.offset.stride(2) == case.offset.shape[3] + 3
    assert_equal(run_all(kernels, wide, grad_output, deterministic=True), run_all(kernels, case, grad_output, True))


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", ["3x3", "3x3 softmax", "5x3 dilated"])
def test_the_order_of_threads_matters_only_to_atomic_additions(
    kernels: ctypes.CDLL, name: str, deterministic: bool
) -> None:
    case, grad_output = make(name, n=1)
    output, grad_input, *grads = run_all(kernels, case, grad_output, deterministic)
    others = []
    for seed in (1, 2, 3):
        kernels.emulation_seed(seed)
        other_output, other_grad_input, *other_grads = run_all(kernels, case, grad_output, deterministic)
        assert_equal([output, *grads], [other_output, *other_grads])
        torch.testing.assert_close(grad_input, other_grad_input)
        others.append(other_grad_input)
    assert all(torch.equal(grad_input, other) for other in others) == deterministic


def test_a_small_grid_does_all_the_work(kernels: ctypes.CDLL) -> None:
    case, grad_output = make("3x3", n=1, size=(12, 13), groups=5)
    full = run_all(kernels, case, grad_output, deterministic=True)
    kernels.emulation_most_blocks(1)
    assert_equal(run_all(kernels, case, grad_output, deterministic=True), full)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_stride_beyond_32_bits_that_plays_no_part_does_no_harm(kernels: ctypes.CDLL, dtype: torch.dtype) -> None:
    case, grad_output = make("3x3 softmax", dtype, size=(1, 6))
    wide = replace(case, geometry=case.geometry._replace(stride=(2**40, 1)))
    output, grads = expected(case, grad_output)
    assert_close(run_forward(kernels, wide), output)
    for deterministic in (False, True):
        assert_all_close(run_backward(kernels, wide, grad_output, deterministic), grads)


@pytest.mark.parametrize("shift", [1, 2, 4])
def test_tensors_may_begin_at_any_element(kernels: ctypes.CDLL, shift: int) -> None:
    def moved(tensor: Tensor) -> Tensor:
        return tensor.new_empty(tensor.numel() + shift)[shift:].view(tensor.shape).copy_(tensor)

    case, grad_output = make("3x3", torch.float16)
    output, grads = expected(case, grad_output)
    shifted = case.with_tensors(*map(moved, case.tensors))
    assert_close(run_forward(kernels, shifted), output)
    assert_all_close(run_backward(kernels, shifted, moved(grad_output)), grads)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e30, -1e30])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["3x3 softmax", "5x3 dilated"])
def test_points_at_no_place_count_as_outside(kernels: ctypes.CDLL, name: str, dtype: torch.dtype, value: float) -> None:
    case, grad_output = make(name, dtype)
    chosen = torch.rand(case.offset.shape, generator=torch.Generator().manual_seed(2)) < 0.2

    def run(offset: float) -> list[Tensor]:
        offsets = torch.where(chosen, torch.tensor(offset, dtype=dtype), case.offset)
        return run_all(kernels, case.with_tensors(case.input, offsets, case.mask), grad_output, deterministic=True)

    results = run(value)
    assert_equal(results, run(1000.0))
    assert not results[2][chosen].any()


def test_neighbours_outside_the_image_are_not_read(kernels: ctypes.CDLL) -> None:
    case, grad_output = make("3x3", n=3, size=(4, 5))
    alone = case.with_tensors(*(tensor[1:2].contiguous() for tensor in case.tensors))
    case.input[0], case.input[2] = torch.inf, torch.nan  # what lies before and behind the second image
    together = [result[1:2] for result in run_all(kernels, case, grad_output, deterministic=True)]
    assert_equal(together, run_all(kernels, alone, grad_output[1:2].contiguous(), deterministic=True))


@pytest.mark.parametrize("name", ["3x3", "3x3 softmax", "1x1"])
def test_nan_in_the_mask_shows_in_its_group_alone(kernels: ctypes.CDLL, name: str) -> None:
    case, _ = make(name)
    case.offset[1, 2, 3] = 1e30  # even where no point is inside
    case.mask[1, 2, 3, -1] = torch.nan
    output = run_forward(kernels, case)
    is_nan = output.view(*output.shape[:3], case.geometry.groups, -1).isnan()
    assert is_nan[1, 2, 3, -1].all()
    assert is_nan.sum() == is_nan.shape[-1]


@pytest.mark.parametrize(("n", "size"), [(0, (4, 4)), (2, (0, 4)), (1, (4, 0))])
def test_nothing_is_launched_for_nothing_and_empty_images_are_zero(
    kernels: ctypes.CDLL, n: int, size: tuple[int, int]
) -> None:
    case, grad_output = make("3x3", n=n, size=size, padding=(2, 2))
    before = kernels.emulation_launches()
    results = run_all(kernels, case, grad_output)
    assert (kernels.emulation_launches() > before) == (grad_output.numel() > 0)
    assert not any(result.any() for result in results)  # memory that is not written holds NaN


def test_groups_without_channels_give_no_gradient(kernels: ctypes.CDLL) -> None:
    case, grad_output = make("3x3", group_channels=0)
    for deterministic in (False, True):
        assert not any(grad.any() for grad in run_backward(kernels, case, grad_output, deterministic))


def test_what_cannot_be_computed_is_refused_and_nothing_launched(kernels: ctypes.CDLL) -> None:
    case, grad_output = make("3x3")
    before = kernels.emulation_launches()
    invalid = 1  # cudaErrorInvalidValue

    def forward(dtype: int, tensors: list[ctypes.c_void_p], sizes: list[object]) -> int:
        return int(kernels.internimage_dcnv3_forward_cuda(ctypes.c_int(dtype), *tensors, *sizes, None))

    tensors, sizes = pointers(*case.tensors, grad_output), numbers(case)
    assert forward(4, tensors, sizes) == invalid
    for i in range(4):
        assert forward(0, [*tensors[:i], None, *tensors[i + 1 :]], sizes) == invalid
    for i in (1, 2, 3, 4, 13):  # the input's and the output's size, padding
        assert forward(0, tensors, [*sizes[:i], ctypes.c_int64(2**40), *sizes[i + 1 :]]) == invalid
    everything = [*pointers(grad_output, *case.tensors), *pointers(*case.tensors)]
    for i in range(7):
        missing = [*everything[:i], None, *everything[i + 1 :]]
        arguments = [ctypes.c_int(0), *missing, *sizes, ctypes.c_int(0), None]
        assert kernels.internimage_dcnv3_backward_cuda(*arguments) == invalid
    assert kernels.emulation_launches() == before


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return load(HERE / "planted.cu", tmp_path_factory.mktemp("planted"))


def reversed_by(planted: ctypes.CDLL, bug: int) -> tuple[Tensor, str]:
    """Whether each element of an array came out where it should, and what the emulation says."""
    array = torch.arange(192.0)
    output = torch.full_like(array, torch.nan)
    planted.planted(bug, *pointers(array, output), 3)
    return output == array.view(3, 64).flip(1).flatten(), planted.emulation_error().decode()


@pytest.mark.parametrize(
    ("bug", "message"),
    [
        pytest.param(2, "not all threads come to the barrier or operation of a warp", id="divergent barrier"),
        pytest.param(3, "not all threads come to the barrier or operation of a warp", id="missing lane"),
        pytest.param(5, "misaligned access of 8 bytes", id="misaligned load"),
    ],
)
def test_planted_bugs_fail_the_launch(planted: ctypes.CDLL, bug: int, message: str) -> None:
    assert message in reversed_by(planted, bug)[1]
    correct, said = reversed_by(planted, 0)  # the emulation goes on after a failure
    assert correct.all()
    assert not said


@pytest.mark.parametrize("bug", [pytest.param(1, id="no barrier"), pytest.param(4, id="uninitialised read")])
def test_planted_bugs_show_in_the_results(planted: ctypes.CDLL, bug: int) -> None:
    for seed in range(3):
        planted.emulation_seed(seed)
        correct, said = reversed_by(planted, bug)
        assert not correct.all()
        assert not said


def test_a_planted_access_out_of_range_is_caught(tmp_path: Path) -> None:
    build(HERE / "planted.cu", tmp_path / "planted", *SANITIZERS, "-static-libasan")
    for bug, status in (("0", 0), ("6", 1)):
        command = [str(tmp_path / "planted"), bug]
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == status, result.stderr
        assert ("heap-buffer-overflow" in result.stderr) == bool(status)


@pytest.mark.skipif(bool(os.environ.get(SANITIZE)), reason="this is the run under the sanitizers")
def test_kernels_run_clean_under_the_sanitizers() -> None:
    # A selection, as each takes seconds: the kernels of every width in one of the halves, and what is not aligned.
    chosen = "torch.float16 and (definition or wider) and (softmax or channels or 5x3) or begin_at"
    run_under_sanitizers(Path(__file__), chosen)
