"""The fused layers against torch's own layers in double precision."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from internimage.ops import use_backend
from internimage.ops.backend import Backend
from internimage.ops.fused import fused_convolution, fused_depthwise, fused_mlp, pack
from internimage.ops.schema import SCHEMA_VERSION

BACKENDS: tuple[Backend, ...] = ("native", "torch")
EPS = 1e-6
channel_counts = st.one_of(st.integers(1, 40), st.sampled_from([64, 80, 112, 144, 256, 300]))
sizes = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))


def conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def norm_of(channels: int) -> nn.LayerNorm:
    norm = nn.LayerNorm(channels, eps=EPS)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def affine(norm: nn.LayerNorm | None) -> Tensor | None:
    return None if norm is None else torch.stack([norm.weight, norm.bias]).detach()


def assert_close(got: Tensor, expected: Tensor) -> None:
    """As near as float32 sums of a few hundred terms come."""
    assert got.is_contiguous()
    torch.testing.assert_close(got.double(), expected, rtol=2e-5, atol=2e-5 * max(1.0, expected.abs().amax().item()))


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=40, deadline=None)
@given(
    size=sizes,
    channels=channel_counts,
    outputs=channel_counts,
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 2),
    norm=st.booleans(),
    gelu=st.booleans(),
    residual=st.booleans(),
)
@torch.no_grad()
def test_a_convolution_with_all_that_follows_it(
    backend: Backend,
    size: tuple[int, int, int],
    channels: int,
    outputs: int,
    kernel: int,
    stride: int,
    norm: bool,
    gelu: bool,
    residual: bool,
) -> None:
    torch.manual_seed(0)
    norm = norm and outputs > 4  # over few channels the variance can vanish, and with it all precision
    layer = nn.Conv2d(channels, outputs, kernel, stride, padding=kernel // 2)
    layer_norm = norm_of(outputs) if norm else None
    x = torch.randn(*size, channels)
    expected = conv(layer, x)
    added = torch.randn_like(expected) if residual else None
    with use_backend(backend):
        got = fused_convolution(
            x,
            pack(layer.weight),
            layer.bias,
            norm=affine(layer_norm),
            residual=added,
            kernel_size=kernel,
            stride=stride,
            gelu=gelu,
            eps=EPS,
        )
    expected = conv(layer.double(), x.double())
    expected = layer_norm.double()(expected) if layer_norm else expected
    expected = F.gelu(expected) if gelu else expected
    assert_close(got, expected if added is None else expected + added)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=30, deadline=None)
@given(
    size=sizes,
    channels=channel_counts.filter(lambda c: c > 4),
    hidden=st.sampled_from([3, 40, 256, 257, 600]),
    norms=st.sampled_from([(False, False), (True, False), (False, True), (True, True)]),
)
@torch.no_grad()
def test_an_mlp_with_its_norms_and_residual(
    backend: Backend, size: tuple[int, int, int], channels: int, hidden: int, norms: tuple[bool, bool]
) -> None:
    torch.manual_seed(0)
    fc1, fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
    before, after = (norm_of(channels) if wanted else None for wanted in norms)
    x = torch.randn(*size, channels) * 3 + 2
    with use_backend(backend):
        got = fused_mlp(
            x,
            pack(fc1.weight),
            fc1.bias,
            pack(fc2.weight),
            fc2.bias,
            input_norm=affine(before),
            output_norm=affine(after),
            eps=EPS,
        )
    y = before.double()(x.double()) if before else x.double()
    y = fc2.double()(F.gelu(fc1.double()(y)))
    assert_close(got, x + (after.double()(y) if after else y))


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=30, deadline=None)
@given(size=sizes, channels=channel_counts.filter(lambda c: c > 4), kernel=st.sampled_from([1, 3, 5, 7]))
@torch.no_grad()
def test_a_depthwise_convolution_with_norm_and_gelu(
    backend: Backend, size: tuple[int, int, int], channels: int, kernel: int
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
    norm = norm_of(channels)
    x = torch.randn(*size, channels)
    weight = layer.weight.flatten(1).t().contiguous()
    with use_backend(backend):
        got = fused_depthwise(x, weight, layer.bias, affine(norm), kernel_size=kernel, eps=EPS)
    assert_close(got, F.gelu(norm.double()(conv(layer.double(), x.double()))))


@pytest.mark.parametrize("channels", [48, 5])
def test_gelu_is_exact_to_rounding_everywhere(channels: int) -> None:
    x = torch.cat([torch.linspace(-12, 12, 48_000), torch.logspace(-30, 30, 240), -torch.logspace(-30, 30, 240)])
    x = x[: len(x) // channels * channels].view(1, -1, 1, channels)
    with use_backend("native"):
        got = fused_convolution(x, pack(torch.eye(channels)), torch.zeros(channels), gelu=True)
    expected = F.gelu(x.double())
    error = (got.double() - expected).abs() / x.double().abs().clamp(min=1e-30)
    assert error.max() < 2.5e-7  # relative to x, as torch's own has it
    special = torch.tensor([float("nan"), float("inf"), 0.0]).view(1, 1, 3, 1).expand(1, 1, 3, 16)
    with use_backend("native"):
        got = fused_depthwise(special, torch.ones(1, 16), torch.zeros(16), torch.ones(2, 16), kernel_size=1, eps=EPS)
    assert got[0, 0, :2].isnan().all()
    assert got[0, 0, 2].isfinite().all()


def test_threads_change_nothing() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 17, 13, 48), pack(torch.randn(70, 48)), torch.randn(70)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(fused_convolution(x, weight, bias, gelu=True))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
    torch.testing.assert_close(results[2], results[0], rtol=0, atol=0)


def arguments(name: str) -> tuple[Any, ...]:
    torch.manual_seed(0)
    x, weight, bias, norm = torch.randn(2, 4, 5, 20), pack(torch.randn(20, 20)), torch.randn(20), torch.randn(2, 20)
    hidden = pack(torch.randn(30, 20)), torch.randn(30), pack(torch.randn(20, 30))
    return {
        "fused_convolution": (x, weight, bias, norm, x.flip(0), 1, 1, True, EPS, SCHEMA_VERSION),
        "fused_mlp": (x, *hidden, bias, norm, None, EPS, SCHEMA_VERSION),
        "fused_depthwise": (x, torch.randn(9, 20), bias, norm, 3, EPS, SCHEMA_VERSION),
    }[name]


@pytest.mark.parametrize("name", ["fused_convolution", "fused_mlp", "fused_depthwise"])
def test_opcheck(name: str) -> None:
    torch.library.opcheck(getattr(torch.ops.internimage, name).default, arguments(name))


@pytest.mark.parametrize("name", ["fused_convolution", "fused_mlp", "fused_depthwise"])
def test_a_wrong_call_of_the_operator_is_refused(name: str) -> None:
    x, weight, bias, *rest = arguments(name)
    operator = getattr(torch.ops.internimage, name).default
    operator(x, weight, bias, *rest)
    for wrong in (
        (x[0], weight, bias, *rest),
        (x.double(), weight, bias, *rest),
        (x, weight[..., :8], bias, *rest),
        (x[..., :8], weight, bias, *rest),
        (x, weight, bias, *rest[:-1], SCHEMA_VERSION + 1),
    ):
        with pytest.raises(RuntimeError, match="internimage"):
            operator(*wrong)


def test_gradients_are_refused() -> None:
    x = torch.randn(1, 2, 2, 16, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"have no gradients; run them under torch\.no_grad"):
        fused_convolution(x, pack(torch.eye(16)), torch.zeros(16))


def test_flops_are_those_of_the_plain_layers() -> None:
    x, norm, images = torch.randn(2, 6, 6, 24), torch.ones(2, 24), torch.randn(2, 24, 6, 6)
    fc1, fc2, convolution = nn.Linear(24, 90), nn.Linear(90, 24), nn.Conv2d(24, 30, 3, 2, 1)
    depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
    with FlopCounterMode(display=False) as plain, torch.no_grad():
        fc2(fc1(x)), convolution(images), depthwise(images)
    with FlopCounterMode(display=False) as fused, torch.no_grad():
        fused_mlp(x, pack(fc1.weight), fc1.bias, pack(fc2.weight), fc2.bias, eps=EPS)
        fused_convolution(x, pack(convolution.weight), convolution.bias, kernel_size=3, stride=2)
        fused_depthwise(x, torch.ones(9, 24), torch.ones(24), norm, kernel_size=3, eps=EPS)
    assert fused.get_total_flops() == plain.get_total_flops()
