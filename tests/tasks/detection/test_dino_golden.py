"""DINO computes what the official one does: maps, queries, every layer, detections, matches, losses, gradients."""

from functools import cache

import pytest
import torch
from golden_detectors import golden_batch
from golden_dino import DINOS, golden_dino, golden_noise, official_mask, truth_of
from golden_heads import deviation, golden

from internimage.tasks.detection import CompositeDINO, FixedSizeDetector
from internimage.tasks.detection import dino_denoising as denoising_module
from internimage.tasks.detection import dino_loss as loss_module
from internimage.tasks.detection.batch import ImageBatch
from internimage.tasks.detection.dino_decoder import box_encoding, inverse_sigmoid
from internimage.tasks.detection.dino_denoising import attention_mask
from internimage.tasks.detection.dino_loss import focal_loss, matching_cost
from internimage.tasks.layers.matching import match

TOLERANCE = 1e-5  # of values; the reference itself is float32
BOX_TOLERANCE = 1e-3  # pixels
GRADIENT_TOLERANCE = 1e-4

load = cache(golden)
each_dino = pytest.mark.parametrize("name", DINOS)
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


@both_dtypes
@each_dino
@torch.no_grad()
def test_memory_and_selected_queries_are_the_official_ones(name: str, dtype: torch.dtype) -> None:
    reference = load(name)
    model = golden_dino(reference).to(dtype)
    images = golden_batch(reference, dtype)
    maps = model.maps(images.image)
    assert deviation(maps[-1], reference[f"out/backbone{'1' if name == 'cb_dino_h' else ''}.last"]) < TOLERANCE
    levels = model.neck(maps)
    for index, level in enumerate(levels):
        assert deviation(level, reference[f"out/neck.{index}"]) < TOLERANCE
    memory = model.encoder(levels, images.image.shape[2:], images.sizes)
    assert deviation(memory.tokens.transpose(0, 1), reference["out/encoder_memory"]) < TOLERANCE
    proposals, valid = model.selection.proposals(memory)
    expected = reference["out/enc_output_proposals"]
    assert torch.equal(proposals.isfinite(), expected.isfinite())
    assert torch.equal(proposals.isfinite(), valid.expand_as(proposals))
    assert 0 < int(valid.sum()) < valid.numel()
    assert deviation(proposals[expected.isfinite()], expected[expected.isfinite()]) < TOLERANCE
    selected = model.selection(memory)
    assert deviation(selected.class_logits, reference["out/topk_score"]) < TOLERANCE
    assert deviation(selected.boxes, reference["out/topk_anchor"]) < TOLERANCE


@both_dtypes
@each_dino
@torch.no_grad()
def test_every_layer_and_the_detections_are_the_official_ones(name: str, dtype: torch.dtype) -> None:
    reference = load(name)
    model = golden_dino(reference).to(dtype)
    images = golden_batch(reference, dtype)
    predictions = model.predict(model.maps(images.image), images.image.shape[2:], images.sizes)
    assert len(predictions.layers) == len(reference["out/all_cls"]) >= 2
    for index, layer in enumerate(predictions.layers):
        assert deviation(layer.class_logits, reference["out/all_cls"][index]) < TOLERANCE
        assert deviation(layer.boxes, reference["out/all_box"][index]) < TOLERANCE
    boxes, scores, labels, counts = FixedSizeDetector(model)(images.image, images.sizes)
    assert counts.tolist() == [15, 15]
    for index, meta in enumerate(reference.meta["img_metas"]):
        expected = reference[f"out/det_bboxes.{index}"].to(dtype)
        assert torch.equal(labels[index], reference[f"out/det_labels.{index}"])
        assert deviation(scores[index], expected[:, 4]) < TOLERANCE
        scaled = boxes[index] / torch.tensor(meta["scale_factor"], dtype=dtype)
        torch.testing.assert_close(scaled, expected[:, :4], atol=BOX_TOLERANCE, rtol=0)


@both_dtypes
@each_dino
def test_matching_losses_and_gradients_are_the_official_ones(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = load(name)
    model = golden_dino(reference).to(dtype).train()
    images, truth = golden_batch(reference, dtype), truth_of(reference, dtype)
    composite = isinstance(model, CompositeDINO)
    if composite:  # the official losses take one image at a time
        images, truth = ImageBatch(*(x[:1] for x in images)), truth[:1]
    noise = golden_noise(reference, sum(len(objects.labels) for objects in truth) * (2 if composite else 1))
    monkeypatch.setattr(denoising_module, "draw_noise", lambda *_: noise)
    costs, matches, noisy = [], [], []

    def record(owner, function, records):
        original = getattr(owner, function)
        monkeypatch.setattr(owner, function, lambda *arguments: records.append(original(*arguments)) or records[-1])

    record(loss_module, "matching_cost", costs)
    record(loss_module, "match_queries", matches)
    record(model, "noisy_queries", noisy)
    losses = model.losses(images, truth)

    (queries,) = noisy
    groups = reference["train/dn_pad_size_groups"].tolist()
    assert [queries.labels.shape[1], queries.groups] == groups
    content = model.label_embed[queries.labels.clamp(min=0)] * (queries.labels >= 0).unsqueeze(-1)
    assert deviation(content, reference["train/dn_label_query"]) < TOLERANCE
    assert deviation(inverse_sigmoid(queries.boxes), reference["train/dn_bbox_query"]) < TOLERANCE
    assert torch.equal(attention_mask(queries, 24), official_mask(reference))

    assert len(matches) == len(reference.names("train/match.")) >= 6
    for index, (cost, matched) in enumerate(zip(costs, matches, strict=True)):
        assert deviation(cost, reference[f"train/cost.{index}"]) < TOLERANCE
        assert torch.equal(torch.stack(matched), reference[f"train/match.{index}"])

    assert set(map(official, losses)) == set(reference.names("train/loss.")) - {"loss"}
    for key, loss in losses.items():
        assert deviation(loss, reference[f"train/loss.{official(key)}"]) < TOLERANCE, key
    total = torch.stack(list(losses.values())).sum()
    assert deviation(total, reference["train/loss.loss"]) < TOLERANCE
    total.backward()
    names = model.renames.to_official(key for key, _ in model.named_parameters())
    by_name = {names[key]: parameter.grad for key, parameter in model.named_parameters()}
    assert len(reference.names("grad/")) > 10
    for key in reference.names("grad/"):
        assert reference[f"grad/{key}"].any()
        assert deviation(by_name[key], reference[f"grad/{key}"]) < GRADIENT_TOLERANCE, key


def official(loss: str) -> str:
    """The official name of a loss."""
    return loss.replace("class", "loss_cls").replace("box", "loss_bbox").replace("giou", "loss_iou")


@torch.no_grad()
def test_gamma_is_rounded_to_half_precision_unless_told_otherwise() -> None:
    reference = load("cb_dino_h")
    image = reference["in/img"].double()
    rounded, exact = (golden_dino(reference, round_gamma=switch).double().maps(image)[-1] for switch in (True, False))
    assert deviation(rounded, reference["out/backbone1.last"]) < TOLERANCE
    assert deviation(exact, reference["out/backbone1.last"]) > TOLERANCE


def test_parts_are_the_official_ones() -> None:
    parts = load("parts")
    classes = parts["in/cls_target"]
    right = torch.nn.functional.one_hot(classes.long(), 7)[:, :6].float()
    logits = parts["in/cls_logit"]
    each = torch.stack([focal_loss(*pair) for pair in zip(logits.flatten(), right.flatten(), strict=True)])
    assert deviation(each.view_as(logits), parts["out/focal_none"]) < TOLERANCE
    assert deviation(box_encoding(parts["in/dino_ref"], 16), parts["out/dino_query_sine_dim16"]) < TOLERANCE
    logits, size = parts["in/match_logit"], parts["in/match_img_shape"][:2]
    objects = loss_module.Truth(parts["in/match_gt"], parts["in/match_gt_labels"], None)
    cost = matching_cost(logits, parts["in/match_box_cxcywh"], objects, size)
    expected = sum(parts[f"out/match_{part}_cost"] for part in ("cls", "reg", "iou"))
    assert deviation(cost, expected) < TOLERANCE
    queries, chosen = match(cost)
    matched = torch.zeros(len(logits), dtype=torch.long)
    matched[queries] = chosen + 1
    assert torch.equal(matched, parts["out/match_gt_inds"])
