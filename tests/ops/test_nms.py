"""Non-maximum suppression, against independent truths, and as torch's compiler and exporter see it."""

from typing import Any

import pytest
import torch
from golden_heads import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from internimage.ops import batched_nms, nms, nms_mask, use_backend
from internimage.ops.backend import Backend
from internimage.ops.schema import SCHEMA_VERSION

BACKENDS: tuple[Backend, ...] = ("native", "torch")

both_backends = pytest.mark.parametrize("backend", BACKENDS)


def make_boxes(
    seed: int, count: int, *, groups: int = 3, size: float = 40.0, dtype: torch.dtype = torch.float32
) -> Any:
    """Boxes, scores with ties, groups from -1 on."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 100
    half = torch.rand(count, 2, generator=generator, dtype=torch.float64) * size
    scores = torch.randint(0, 50, (count,), generator=generator).to(dtype) / 50
    return (
        torch.cat((centres - half, centres + half), dim=1).to(dtype),
        scores,
        torch.randint(-1, groups, (count,), generator=generator),
    )


@st.composite
def box_cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, float]:
    boxes = make_boxes(
        draw(st.integers(0, 2**31)),
        draw(st.integers(0, 70)),
        groups=draw(st.integers(1, 4)),
        size=draw(st.sampled_from([0.0, 10.0, 40.0, 100.0])),
        dtype=draw(st.sampled_from([torch.float32, torch.float64])),
    )
    return *boxes, draw(st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))


def iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union else 0.0


def one_after_the_other(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> list[int]:
    corners, kept = boxes.double().tolist(), []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i].item(), i)):
        if groups[i] >= 0 and all(groups[i] != groups[j] or iou(corners[i], corners[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


@both_backends
def test_matches_the_released_operation(backend: Backend) -> None:
    stored = golden("parts")
    boxes, scores = stored["in/nms_boxes"], stored["in/nms_scores"]
    with use_backend(backend):
        kept = batched_nms(boxes, scores[:, 0], stored["in/nms_ids"], 0.7)
        assert torch.equal(kept, stored["out/batched_nms_0.7.keep"])
        classes = torch.arange(3).repeat(150)
        for least, threshold, most in ((0.05, 0.5, 100), (0.3, 0.5, 20), (0.0, 0.7, -1)):
            flat = scores[:, :3].flatten()
            chosen = (flat > least).nonzero().squeeze(1)
            kept = batched_nms(boxes[chosen // 3], flat[chosen], classes[chosen], threshold)
            found = chosen[kept if most < 0 else kept[:most]]
            name = f"out/nms_{least}_{threshold}_{most}"
            assert torch.equal(classes[found], stored[f"{name}.labels"])
            torch.testing.assert_close(boxes[found // 3], stored[f"{name}.dets"][:, :4], rtol=0, atol=0)
            torch.testing.assert_close(flat[found], stored[f"{name}.dets"][:, 4], rtol=0, atol=0)


@both_backends
@given(box_cases())
@settings(max_examples=60, deadline=None)
def test_equals_one_box_after_the_other(backend: Backend, case: tuple[Tensor, Tensor, Tensor, float]) -> None:
    boxes, scores, groups, threshold = case
    with use_backend(backend):
        assert batched_nms(boxes, scores, groups, threshold).tolist() == one_after_the_other(*case)
        assert nms_mask(boxes, scores, threshold, groups=groups).nonzero().squeeze(1).tolist() == sorted(
            one_after_the_other(*case)
        )
        alone = torch.zeros_like(groups)
        assert nms(boxes, scores, threshold).tolist() == one_after_the_other(boxes, scores, alone, threshold)


@pytest.mark.parametrize("count", [512, 513, 1500])
def test_the_kernel_equals_the_definition_where_that_takes_several_blocks(count: int) -> None:
    boxes, scores, groups = make_boxes(count, count, size=8.0)
    results = []
    for backend in BACKENDS:
        with use_backend(backend):
            results.append(batched_nms(boxes, scores, groups, 0.4))
    assert torch.equal(*results)
    assert 100 < len(results[0]) < count - 100


@both_backends
def test_equals_torchvision(backend: Backend) -> None:
    torchvision = pytest.importorskip("torchvision", reason="needs torchvision: pip install torchvision")
    for seed in range(20):
        boxes, _, groups = make_boxes(seed, 300)
        scores = torch.rand(300, generator=torch.Generator().manual_seed(seed))
        groups = groups + 1
        with use_backend(backend):
            assert torch.equal(nms(boxes, scores, 0.5), torchvision.ops.nms(boxes, scores, 0.5))
            expected = torchvision.ops.batched_nms(boxes, scores, groups, 0.3)
            assert torch.equal(batched_nms(boxes, scores, groups, 0.3), expected)


@both_backends
def test_groups_stay_exact_where_a_shift_of_coordinates_would_not(backend: Backend) -> None:
    """Two thirds overlap, 1000 groups on: the shift that detectors use would leave eighths of a pixel."""
    boxes = torch.tensor([[1000.0, 1000.0, 1000.3, 1001.0], [1000.05, 1000.0, 1000.35, 1001.0]])
    far = torch.tensor([[0.0, 0.0, 1333.0, 1333.0]])
    groups = torch.tensor([1000, 1000, 0])
    with use_backend(backend):
        kept = nms_mask(torch.cat((boxes, far)), torch.tensor([0.9, 0.8, 0.7]), 0.6, groups=groups)
    assert kept.tolist() == [True, False, True]


@both_backends
def test_only_more_than_the_threshold_removes(backend: Backend) -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 1.0], [0.0, 0.0, 6.0, 1.0]])
    with use_backend(backend):
        for dtype in (torch.float32, torch.float64):
            kept = [len(nms(boxes.to(dtype), torch.tensor([0.9, 0.8]), t)) for t in (0.6, 0.599)]
            assert kept == [2, 1]


@both_backends
def test_degenerate_boxes_neither_remove_nor_are_removed(backend: Backend) -> None:
    box = [2.0, 2.0, 8.0, 8.0]
    odd = [[5.0, 5.0, 5.0, 5.0], [2.0, 2.0, 2.0, 8.0], [8.0, 2.0, 2.0, 8.0], [8.0, 8.0, 2.0, 2.0]]
    odd += [[float("nan"), 2.0, 8.0, 8.0], [2.0, 2.0, float("inf"), float("nan")]]
    boxes = torch.tensor([odd[0], *odd, box, *odd, box])
    scores = torch.linspace(1, 0, len(boxes))
    for threshold in (0.0, 0.5):
        with use_backend(backend):
            kept = nms_mask(boxes, scores, threshold)
        assert kept.tolist() == [True] * (len(boxes) - 1) + [False]


@both_backends
def test_ties_and_nan_have_a_fixed_order(backend: Backend) -> None:
    boxes = torch.arange(5.0).view(5, 1) * 10 + torch.tensor([0.0, 0.0, 5.0, 5.0])
    with use_backend(backend):
        assert nms(boxes, torch.tensor([0.5, 0.7, 0.5, float("nan"), 0.7]), 0.5).tolist() == [3, 1, 4, 0, 2]


@both_backends
def test_padding_is_not_kept_and_removes_nothing(backend: Backend) -> None:
    boxes, scores, groups = make_boxes(0, 40)
    groups = groups.clamp(min=0)
    padded = torch.cat((boxes, torch.full((8, 4), float("nan")), boxes[:8]))
    with use_backend(backend):
        expected = nms_mask(boxes, scores, 0.5, groups=groups)
        found = nms_mask(
            padded,
            torch.cat((scores, torch.full((16,), 2.0))),
            0.5,
            groups=torch.cat((groups, torch.full((16,), -1))),
        )
    assert torch.equal(found[:40], expected)
    assert not found[40:].any()


@both_backends
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_compared_in_float32(backend: Backend, dtype: torch.dtype) -> None:
    boxes, scores, groups = make_boxes(1, 60, dtype=dtype)
    with use_backend(backend):
        found = batched_nms(boxes, scores, groups, 0.5)
        assert torch.equal(found, batched_nms(boxes.float(), scores.float(), groups, 0.5))


@both_backends
def test_no_boxes_give_none(backend: Backend) -> None:
    boxes, scores, groups = make_boxes(2, 0)
    with use_backend(backend):
        assert nms(boxes, scores, 0.5).shape == (0,)
        assert batched_nms(boxes, scores, groups, 0.5).dtype == torch.int64
        assert nms_mask(boxes, scores, 0.5).dtype == torch.bool


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype: torch.dtype) -> None:
    boxes, scores, groups = make_boxes(3, 20, dtype=dtype)
    with use_backend("native"):
        nms(boxes, scores, 0.5)  # loads the kernel
    torch.library.opcheck(torch.ops.internimage.nms.default, (boxes, groups.sort().values, 0.5, SCHEMA_VERSION))


class Proposals(torch.nn.Module):
    """The best of a fixed number of boxes, as a detector of fixed sizes takes them."""

    def forward(self, boxes: Tensor, scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        kept = nms_mask(boxes, scores, 0.5, groups=groups)
        best = torch.where(kept, scores, -1).topk(5).indices
        return boxes[best], kept.sum()


@both_backends
def test_the_mask_compiles_to_one_graph_for_all_sizes(backend: Backend) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(Proposals(), fullgraph=True, dynamic=True, backend="aot_eager")
    for seed, count in enumerate((40, 30)):
        case = make_boxes(seed, count)
        with use_backend(backend):
            torch.testing.assert_close(compiled(*case), Proposals()(*case), rtol=0, atol=0)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("strict", [False, True])
def test_the_mask_exports_with_dynamic_sizes(strict: bool) -> None:
    count = torch.export.Dim("count", min=5, max=5000)
    program = torch.export.export(
        Proposals(), make_boxes(0, 40), dynamic_shapes=({0: count}, {0: count}, {0: count}), strict=strict
    )
    assert [node.target for node in program.graph.nodes].count(torch.ops.internimage.nms.default) == 1
    other = make_boxes(1, 77)
    torch.testing.assert_close(program.module()(*other), Proposals()(*other), rtol=0, atol=0)


BOXES, SCORES, GROUPS = make_boxes(4, 10)
BAD_CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "boxes": ({"boxes": BOXES[:, :3]}, r"boxes must be \[K, 4\].*got shape \(10, 3\)"),
    "scores": ({"scores": SCORES[:9]}, r"scores must have one entry for each of the 10 boxes, got shape \(9,\)"),
    "groups": ({"groups": GROUPS[:, None]}, r"groups must have one entry .*got shape \(10, 1\)"),
    "integers": ({"boxes": BOXES.int()}, r"boxes must be float32.*got torch.int32; convert it with .float\(\)"),
    "float groups": ({"groups": GROUPS.float()}, r"groups must be integers, got torch.float32; .*\.long\(\)"),
    "devices": ({"scores": SCORES.to("meta")}, r"one device, got boxes on cpu and scores on meta"),
    "threshold": ({"iou_threshold": 50}, "iou_threshold must be from 0 to 1, got 50"),
}


@pytest.mark.parametrize("call", BAD_CALLS)
def test_a_bad_call_says_what_is_wrong_and_how_to_mend_it(call: str) -> None:
    changes, message = BAD_CALLS[call]
    arguments = {"boxes": BOXES, "scores": SCORES, "groups": GROUPS, "iou_threshold": 0.5}
    with pytest.raises(ValueError, match=message):
        batched_nms(**{**arguments, **changes})


def test_the_operator_itself_refuses_what_would_read_foreign_memory() -> None:
    with use_backend("native"):
        nms(BOXES, SCORES, 0.5)
    for groups, message in ((GROUPS[:9], r"groups \[K\]"), (GROUPS.int(), "int64")):
        with pytest.raises(RuntimeError, match=message):
            torch.ops.internimage.nms(BOXES, groups, 0.5, SCHEMA_VERSION)
