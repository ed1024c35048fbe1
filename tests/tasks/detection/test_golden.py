"""The detectors compute what the official ones do: pyramid, proposals, detections, masks, losses and gradients."""

from functools import cache

import pytest
import torch
from golden_detectors import DETECTORS, golden_batch, golden_detector, golden_truth, unpacked
from golden_heads import Golden, deviation, golden
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from internimage.tasks.detection import FixedSizeDetector, MaskRCNN
from internimage.tasks.detection import roi_heads as roi_heads_module
from internimage.tasks.detection.boxes import clip_boxes
from internimage.tasks.detection.masks import paste_masks, paste_probability
from internimage.tasks.detection.pooling import level_of, pool_regions, to_rois

TOLERANCE = 1e-5  # of maps; the reference itself is float32
BOX_TOLERANCE = 1e-3  # pixels
GRADIENT_TOLERANCE = 1e-4
WITH_MASKS = [name for name in DETECTORS if "agnostic" not in name]

load = cache(golden)
each_detector = pytest.mark.parametrize("name", DETECTORS)
each_with_masks = pytest.mark.parametrize("name", WITH_MASKS)
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def stage_names(model: MaskRCNN) -> list[str]:
    cascade = len(model.roi_heads.box_heads) > 1
    return [f"stage{i}." if cascade else "" for i in range(len(model.roi_heads.box_heads))]


def order_like(boxes: Tensor, expected: Tensor) -> Tensor:
    """Which of the boxes is the expected one, for each: rounding decides on the order of nearly equal scores."""
    assert boxes.shape == expected.shape
    apart = (expected[:, None] - boxes[None]).abs().amax(-1)
    order = torch.from_numpy(linear_sum_assignment(apart.detach().numpy())[1])
    torch.testing.assert_close(boxes[order], expected, atol=BOX_TOLERANCE, rtol=0)
    return order


def scale_factors(reference: Golden, dtype: torch.dtype) -> list[Tensor]:
    return [torch.tensor(meta["scale_factor"], dtype=dtype) for meta in reference.meta["img_metas"]]


@both_dtypes
@each_detector
@torch.no_grad()
def test_pyramid_and_proposals_are_the_official_ones(name: str, dtype: torch.dtype) -> None:
    reference = load(name)
    model = golden_detector(name, reference).to(dtype)
    images = golden_batch(reference, dtype)
    maps = model.pyramid(images.image)
    outputs = model.rpn(maps)
    for level, stride in enumerate((3, 2, 1, 1, 1)):  # the reference is thinned out
        for got, key in ((maps, "fpn"), (outputs.logits, "rpn_cls"), (outputs.deltas, "rpn_reg")):
            assert deviation(got[level][:, :, ::stride, ::stride], reference[f"out/{key}.{level}"]) < TOLERANCE
    proposals = model.rpn.propose(outputs, images.sizes, model.limits)
    for index in range(2):
        expected = reference[f"out/proposals.{index}"]
        count = int(proposals.counts[index])
        order = order_like(proposals.boxes[index, :count], expected[:, :4].to(dtype))
        for ordered in (order, slice(None)):
            assert deviation(proposals.scores[index, :count][ordered], expected[:, 4]) < TOLERANCE


@both_dtypes
@each_detector
@torch.no_grad()
def test_detections_are_the_official_ones(name: str, dtype: torch.dtype) -> None:
    reference = load(name)
    model = golden_detector(name, reference).to(dtype)
    images = golden_batch(reference, dtype)
    found = FixedSizeDetector(model)(images.image, images.sizes)
    boxes, scores, labels, counts = found[:4]
    assert counts.tolist() == [len(reference[f"out/det_bboxes.{i}"]) for i in range(2)]
    for index, factors in enumerate(scale_factors(reference, dtype)):
        expected = reference[f"out/det_bboxes.{index}"]
        assert torch.equal(labels[index], reference[f"out/det_labels.{index}"])
        assert deviation(scores[index], expected[:, 4]) < TOLERANCE
        torch.testing.assert_close(boxes[index] / factors, expected[:, :4].to(dtype), atol=BOX_TOLERANCE, rtol=0)


@each_detector
@torch.no_grad()
def test_every_stage_is_the_official_one(name: str) -> None:
    reference = load(name)
    model = golden_detector(name, reference)
    images = golden_batch(reference, torch.float32)
    maps = model.pyramid(images.image)
    names = stage_names(model)
    for index, (stage, head) in enumerate(zip(names, model.roi_heads.box_heads, strict=True)):
        rois = reference[f"out/{stage}rois"]
        logits, deltas = head(pool_regions(maps, rois, 7))
        key = f"out/{stage}cls_score"
        assert deviation(logits, reference[key]) < TOLERANCE
        assert deviation(deltas.flatten(1), reference[f"out/{stage}bbox_pred"]) < TOLERANCE
        if index + 1 < len(names):
            best = logits[:, :-1].argmax(1, keepdim=True)
            refined = head.coder.decode(rois[:, 1:], head.deltas_of(deltas, best).squeeze(1))
            expected = reference[f"out/{names[index + 1]}rois"]
            refined = clip_boxes(refined, images.sizes[rois[:, 0].long()])
            torch.testing.assert_close(refined, expected[:, 1:], atol=BOX_TOLERANCE, rtol=0)


@torch.no_grad()
def test_regions_are_pooled_at_the_official_levels() -> None:
    reference = load("mask_rcnn_t")
    model = golden_detector("mask_rcnn_t", reference)
    rois = reference["out/rois"]
    assert torch.equal(level_of(rois[:, 1:]), reference["out/roi_level"])
    expected = reference["out/roi_feat_head"]
    assert deviation(pool_regions(model.pyramid(reference["in/img"]), rois[: len(expected)], 7), expected) < TOLERANCE


@both_dtypes
@each_with_masks
@torch.no_grad()
def test_masks_are_the_official_ones(name: str, dtype: torch.dtype) -> None:
    reference = load(name)
    model = golden_detector(name, reference).to(dtype)
    images = golden_batch(reference, dtype)
    boxes, _, _, counts, probabilities = FixedSizeDetector(model)(images.image, images.sizes)
    rois = to_rois(boxes, counts)
    torch.testing.assert_close(rois, reference["out/mask_rois"].to(dtype), atol=BOX_TOLERANCE, rtol=0)
    regions = pool_regions(model.pyramid(images.image), rois[:3], 14)
    for stage, head in zip(stage_names(model), model.roi_heads.mask_heads, strict=True):
        assert deviation(head(regions), reference[f"out/{stage}mask_logits"]) < 1e-4
    for index, (meta, factors) in enumerate(
        zip(reference.meta["img_metas"], scale_factors(reference, dtype), strict=True)
    ):
        size = tuple(meta["ori_shape"][:2])
        scaled = boxes[index] / factors
        pasted = paste_masks(probabilities[index], scaled, size)
        expected = unpacked(reference, f"out/masks_packed.{index}", (counts[index], *size))
        for k, y, x in (pasted != expected).nonzero().tolist():  # only where rounding decides
            pixel = paste_probability(probabilities[index, k], scaled[k], slice(y, y + 1), slice(x, x + 1))
            assert float(pixel) == pytest.approx(0.5, abs=1e-5)


@both_dtypes
@each_detector
def test_losses_are_the_official_ones(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = load(name)
    model = golden_detector(name, reference).to(dtype)
    samples = []
    original = roi_heads_module._sample
    monkeypatch.setattr(roi_heads_module, "_sample", lambda *a: samples.append(original(*a)) or samples[-1])
    images = golden_batch(reference, dtype)
    losses = model.train().losses(images, golden_truth(reference, dtype))
    expected = {
        "rpn_objectness": "loss_rpn_cls",
        "rpn_box": "loss_rpn_bbox",
        **{
            f"{stage}{kind}": f"{stage.replace('stage', 's')}loss_{official}"
            for stage in stage_names(model)
            for kind, official in (("class", "cls"), ("box", "bbox"), ("mask", "mask"))
            if kind != "mask" or model.has_masks
        },
    }
    assert losses.keys() == expected.keys()
    for stage in range(len(model.roi_heads.box_heads)):
        of_stage = samples[2 * stage : 2 * stage + 2]
        boxes = torch.cat([sampled.boxes for sampled in of_stage])
        order = order_like(boxes, reference[f"train/stage{stage}.rois"][:, 1:].to(dtype))
        labels = torch.cat([sampled.labels for sampled in of_stage])
        assert torch.equal(labels[order], reference[f"train/stage{stage}.labels"].long())
        for index, sampled in enumerate(of_stage):
            assert torch.equal(sampled.matched, reference[f"train/stage{stage}.pos_gt.{index}"].long())
    for key, official in expected.items():
        assert deviation(losses[key], reference[f"train/loss.{official}"]) < 1e-4, key
    total = torch.stack(list(losses.values())).sum()
    assert deviation(total, reference["train/loss.loss"]) < TOLERANCE


@both_dtypes
@each_detector
def test_gradients_are_the_official_ones(name: str, dtype: torch.dtype) -> None:
    reference = load(name)
    model = golden_detector(name, reference).to(dtype).train()
    names = model.renames.to_official(key for key, _ in model.named_parameters())
    images = golden_batch(reference, dtype)

    def deviations(image: Tensor) -> dict[str, float]:
        model.zero_grad()
        losses = model.losses(images._replace(image=image), golden_truth(reference, dtype))
        torch.stack(list(losses.values())).sum().backward()
        by_name = {names[key]: parameter.grad for key, parameter in model.named_parameters()}
        return {key: deviation(by_name[key], reference[f"grad/{key}"]) for key in reference.names("grad/")}

    # A point on the edge of a pixel has the gradient of one side or of the other, as rounding decides: the processor's,
    # or the input's. In float64 it may always lie on the other side than in the reference, so that the backbone's
    # gradients are compared in float32 alone.
    compared = [key for key in reference.names("grad/") if dtype == torch.float32 or not key.startswith("backbone.")]
    torch.manual_seed(0)
    worst = []
    for rounding in (0.0, *[2e-7] * 11) if dtype == torch.float32 else (0.0,):
        found = deviations(images.image * (1 + rounding * torch.randn_like(images.image)))
        worst.append(max(found[key] for key in compared))
        if worst[-1] < GRADIENT_TOLERANCE:
            return
    raise AssertionError(f"gradients deviate by {worst}, expected less than {GRADIENT_TOLERANCE} for some rounding")
