"""The segmentors compute what the official ones do: scores, inference, losses and gradients."""

from functools import cache

import numpy as np
import pytest
import torch
from golden_heads import Golden, deviation, golden
from golden_segmentors import PIXEL_CLASSIFIERS, golden_segmentor
from torch import Tensor

from internimage.tasks.layers import points as points_module
from internimage.tasks.segmentation import Segmentor
from internimage.tasks.segmentation import mask_loss as mask_loss_module
from internimage.tasks.segmentation.inference import Sliding, class_probabilities, predict_classes
from internimage.tasks.segmentation.losses import AUXILIARY_WEIGHT, pixel_accuracy, pixel_loss
from internimage.tasks.segmentation.mask2former import attention_mask
from internimage.tasks.segmentation.mask_loss import mask_loss, match_queries, matching_cost, to_target

TOLERANCE = 1e-5  # of values; the reference itself is float32
GRADIENT_TOLERANCE = 1e-4
# Batch norm of two values, one an image, all but cancels this gradient: in float32 it has three digits, whatever the
# implementation.
CANCELLED = "decode_head.psp_modules.0.1.conv.weight"
DTYPES = (torch.float32, torch.float64)

load = cache(golden)
each_pixel_classifier = pytest.mark.parametrize("name", PIXEL_CLASSIFIERS)
both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])


def gradients(model: Segmentor, reference: Golden) -> dict[str, float]:
    """Deviation of each gradient that is stored."""
    names = model.renames.to_official(key for key, _ in model.named_parameters())
    by_name = {names[key]: parameter.grad for key, parameter in model.named_parameters()}
    return {key: deviation(by_name[key], reference[f"grad/{key}"]) for key in reference.names("grad/")}


@both_dtypes
@each_pixel_classifier
@torch.no_grad()
def test_logits_are_the_official_ones(name: str, dtype: torch.dtype) -> None:
    reference = load(name)
    model = golden_segmentor(reference).to(dtype)
    image = reference["in/img"].to(dtype)
    maps = model.backbone(image)
    for index, got in enumerate(maps):
        assert deviation(got, reference[f"out/feat.{index}"]) < TOLERANCE
    logits, auxiliary = model.forward_heads(image)
    assert deviation(logits, reference["out/decode_logits"]) < TOLERANCE
    assert (auxiliary is None) == ("out/aux_logits" not in reference.arrays)
    if auxiliary is not None:
        assert deviation(auxiliary, reference["out/aux_logits"]) < TOLERANCE


@both_dtypes
@each_pixel_classifier
@torch.no_grad()
def test_inference_is_the_official_one(name: str, dtype: torch.dtype) -> None:
    reference = load(name)
    model = golden_segmentor(reference).to(dtype)
    image, size = reference["in/img"].to(dtype), reference.meta["ori_shape"]
    sliding = Sliding(model, reference.meta["slide_cfg"]["crop_size"], reference.meta["slide_cfg"]["stride"])
    for kind, segmentor in (("whole", model), ("slide", sliding)):
        assert deviation(class_probabilities(segmentor, image[:1], size), reference[f"out/{kind}_prob"]) < TOLERANCE
    assert torch.equal(predict_classes(model, image, size), reference["out/whole_pred"].long())
    mirrored = predict_classes(model, image, size, mirrored=True)
    assert torch.equal(mirrored, reference["out/flip_tta_pred"].long())


@both_dtypes
@each_pixel_classifier
def test_losses_and_gradients_are_the_official_ones(name: str, dtype: torch.dtype) -> None:
    reference = load(name)
    model = golden_segmentor(reference).to(dtype)
    image, labels = reference["in/img"].to(dtype), reference["in/label"][:, 0]
    total = torch.zeros(())
    for mode in ("eval", "train"):  # only the norms tell the difference
        outputs = model.train(mode == "train").forward_heads(image)
        total = torch.zeros((), dtype=dtype)
        for head, logits, weight in zip(("decode", "aux"), outputs, (1.0, AUXILIARY_WEIGHT), strict=True):
            if isinstance(logits, Tensor):
                loss = weight * pixel_loss(logits, labels)
                assert deviation(loss, reference[f"out/loss_{mode}.{head}.loss_ce"]) < TOLERANCE
                accuracy = pixel_accuracy(logits, labels)
                one_pixel = 0.0 if dtype == torch.float64 else 100 / int((labels != 255).sum())  # two classes may tie
                expected = reference[f"out/loss_{mode}.{head}.acc_seg"]
                assert float(accuracy) == pytest.approx(float(expected), abs=1e-4 + one_pixel)
                total = total + loss
    assert deviation(total, reference["out/loss_train_total"]) < TOLERANCE
    total.backward()
    for key, difference in gradients(model, reference).items():
        assert difference < (1e-3 if key == CANCELLED else GRADIENT_TOLERANCE), key


@both_dtypes
@torch.no_grad()
def test_every_set_of_mask2former_is_the_official_one(dtype: torch.dtype) -> None:
    reference = load("mask2former_h")
    model = golden_segmentor(reference).to(dtype)
    image = reference["in/img"].to(dtype)
    maps = model.backbone(image)
    pixels, levels = model.head.pixel_decoder(maps)
    assert deviation(pixels, reference["out/pixel_decoder.mask_features"]) < TOLERANCE
    for index, level in enumerate(levels):
        assert deviation(level, reference[f"out/pixel_decoder.multi_scale.{index}"]) < TOLERANCE
    predictions = model.head(maps)
    assert len(predictions) == 5
    for index, (classes, masks) in enumerate(predictions):
        assert deviation(classes, reference[f"out/cls_logits.{index}"]) < TOLERANCE
        assert deviation(masks, reference[f"out/mask_logits.{index}"]) < TOLERANCE
        mask = attention_mask(masks, levels[index % 3].shape[2:])
        assert torch.equal(mask, opened(reference, index, heads=4))
    assert deviation(model.head.semantic_scores(predictions), reference["out/semantic"]) < TOLERANCE


def opened(reference: Golden, index: int, heads: int) -> Tensor:
    """The official attention mask of a set, True where a query may look, with the empty rows opened."""
    shape = tuple(reference[f"out/attn_mask_shape.{index}"].tolist())
    bits = np.unpackbits(reference.arrays[f"out/attn_mask_before_reset.{index}"], count=int(np.prod(shape)))
    mask = ~torch.from_numpy(bits.astype(bool)).view(-1, heads, *shape[1:])
    assert (mask == mask[:, :1]).all()  # all heads have the same
    return mask[:, 0] | ~mask[:, 0].any(-1, keepdim=True)


@both_dtypes
@torch.no_grad()
def test_inference_of_mask2former_is_the_official_one(dtype: torch.dtype) -> None:
    reference = load("mask2former_h")
    model = golden_segmentor(reference).to(dtype)
    image, size = reference["in/img"].to(dtype), reference.meta["ori_shape"]
    assert deviation(class_probabilities(model, image[:1], size), reference["out/whole_prob_first"]) < TOLERANCE
    assert torch.equal(predict_classes(model, image, size), reference["out/whole_pred"].long())


@both_dtypes
def test_matching_losses_and_gradients_of_mask2former_are_the_official_ones(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = load("mask2former_h")
    recorded = (reference[f"train/rand.{i}"] for i in range(20))
    costs: list[Tensor] = []
    matches: list[tuple[Tensor, Tensor]] = []

    def replay(maps: int, points: int, like: Tensor) -> Tensor:
        tensor = next(recorded)
        assert tensor.shape == (maps, points, 2)
        return tensor.to(like.dtype)

    def recording(function, record):
        def wrapped(*arguments):
            record.append(function(*arguments))
            return record[-1]

        return wrapped

    monkeypatch.setattr(points_module, "random_points", replay)
    monkeypatch.setattr(mask_loss_module, "random_points", replay)
    monkeypatch.setattr(mask_loss_module, "matching_cost", recording(matching_cost, costs))
    monkeypatch.setattr(mask_loss_module, "match_queries", recording(match_queries, matches))
    model = golden_segmentor(reference).to(dtype).train()
    predictions, auxiliary = model.forward_heads(reference["in/img"].to(dtype))
    assert auxiliary is None
    losses = mask_loss(predictions, reference["gt/semantic"][:, 0], points=128)
    assert next(recorded, None) is None

    for index in range(2):
        target = to_target(reference["gt/semantic"][index, 0], predictions[0])
        assert torch.equal(target.classes, reference[f"gt/labels.{index}"])
    for index in range(10):
        assert deviation(costs[index], reference[f"train/cost.{index}"]) < TOLERANCE
        assert torch.equal(torch.stack(matches[index]), reference[f"train/match.{index}"])
    assert len(losses) == 15
    for key, loss in losses.items():
        prefix, _, kind = key.rpartition(".")
        official = ".".join(filter(None, ("decode", prefix, f"loss_{kind.replace('class', 'cls')}")))
        assert deviation(loss, reference[f"train/loss.{official}"]) < TOLERANCE
    total = sum(losses.values())
    assert deviation(total, reference["train/loss_total"]) < TOLERANCE
    total.backward()
    assert max(gradients(model, reference).values()) < GRADIENT_TOLERANCE
