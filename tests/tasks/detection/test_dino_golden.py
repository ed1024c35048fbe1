"""DINO computes what the official one does: maps, queries, every layer, detections, matches, losses, gradients."""

from functools import cache

import pytest
import torch
from golden_detectors import golden_batch
from golden_dino import DINOS, golden_dino, golden_noise, official_mask, truth_of
from golden_heads import deviation, golden
from torch import Tensor

from internimage.tasks.detection import DINO, FixedSizeDetector
from internimage.tasks.detection import dino_denoising as denoising_module
from internimage.tasks.detection import dino_loss as loss_module
from internimage.tasks.detection.batch import ImageBatch
from internimage.tasks.detection.dino_decoder import Predictions, box_encoding, inverse_sigmoid
from internimage.tasks.detection.dino_denoising import attention_mask
from internimage.tasks.detection.dino_encoder import Memory

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
    last = "out/backbone1.last" if name == "cb_dino_h" else "out/backbone.last"
    print("backbone", deviation(maps[-1], reference[last]))
    levels = model.neck(maps)
    for i, level in enumerate(levels):
        print("neck", i, deviation(level, reference[f"out/neck.{i}"]))
    memory: Memory = model.encoder(levels, images.image.shape[2:], images.sizes)
    print("memory", deviation(memory.tokens.transpose(0, 1), reference["out/encoder_memory"]))
    proposals, valid = model.selection._proposals(memory)
    exp = reference["out/enc_output_proposals"]
    print("prop", torch.equal(proposals.isinf(), exp.isinf()), deviation(proposals[exp.isfinite()], exp[exp.isfinite()]))
    selected = model.selection(memory)
    print("sel", deviation(selected.class_logits, reference["out/topk_score"]), deviation(selected.boxes, reference["out/topk_anchor"]))
    predictions = model.predict(maps, images.image.shape[2:], images.sizes)
    for i, layer in enumerate(predictions.layers):
        print("layer", i, deviation(layer.class_logits, reference["out/all_cls"][i]), deviation(layer.boxes, reference["out/all_box"][i]))
    boxes, scores, labels, counts = FixedSizeDetector(model)(images.image, images.sizes)
    for i, meta in enumerate(reference.meta["img_metas"]):
        expected = reference[f"out/det_bboxes.{i}"]
        print("det", (boxes[i] / torch.tensor(meta["scale_factor"]) - expected[:, :4]).abs().max(), deviation(scores[i], expected[:, 4]), torch.equal(labels[i], reference[f"out/det_labels.{i}"]))


@both_dtypes
@each_dino
def test_losses(name: str, dtype: torch.dtype, monkeypatch) -> None:
    reference = load(name)
    model = golden_dino(reference).to(dtype)
    composite = name == "cb_dino_h"
    images, truth = golden_batch(reference, dtype), truth_of(reference, dtype)
    if composite:
        images, truth = ImageBatch(*(x[:1] for x in images)), truth[:1]
    objects = sum(len(t.labels) for t in truth) * (2 if composite else 1)
    noise = golden_noise(reference, objects)
    monkeypatch.setattr(denoising_module, "draw_noise", lambda *a: noise._replace(chance=noise.chance.to(dtype), sizes=noise.sizes.to(dtype)))
    costs, matches, queries = [], [], []

    def recording(function, record):
        def wrapped(*arguments):
            record.append(function(*arguments))
            return record[-1]

        return wrapped

    monkeypatch.setattr(loss_module, "matching_cost", recording(loss_module.matching_cost, costs))
    monkeypatch.setattr(loss_module, "match_queries", recording(loss_module.match_queries, matches))
    model.train()
    noisy = model.noisy_queries([*truth, *truth] if composite else truth, images.sizes.repeat(2, 1) if composite else images.sizes)
    known = noisy.labels.unsqueeze(-1) >= 0
    print("dnlabel", deviation(model.label_embed[noisy.labels.clamp(min=0)] * known, reference["train/dn_label_query"]))
    print("dnbox", deviation(inverse_sigmoid(noisy.boxes), reference["train/dn_bbox_query"]))
    print("mask", torch.equal(attention_mask(noisy, 24), official_mask(reference)))
    losses = model.losses(images, truth)
    for i in range(len(costs)):
        print("cost", i, deviation(costs[i], reference[f"train/cost.{i}"]), torch.equal(torch.stack(matches[i]), reference[f"train/match.{i}"]))
    for key, loss in losses.items():
        off = key.replace("class", "loss_cls").replace("box", "loss_bbox").replace("giou", "loss_iou")
        print(key, deviation(loss, reference[f"train/loss.{off}"]))
    total = sum(losses.values())
    print("total", deviation(total, reference["train/loss.loss"]), len(losses), len(reference.names("train/loss.")))
    total.backward()
    names = model.renames.to_official(key for key, _ in model.named_parameters())
    by = {names[k]: p.grad for k, p in model.named_parameters()}
    print("nograd", [k for k, g in by.items() if g is None])
    for key in reference.names("grad/"):
        print(key, deviation(by[key], reference[f"grad/{key}"]))
