"""The two faces of DINO agree; it trains, and what it learns from in training changes nothing else."""

import pytest
import torch
from small_detectors import (
    BACKBONE,
    Convolutions,
    assert_exports_with_free_sizes,
    images,
    small_dino,
    small_dino_config,
    targets,
)

from internimage.backbone import InternImageFeatures
from internimage.tasks.detection import FixedSizeDetector
from internimage.tasks.detection.batch import pad_images, read_targets
from internimage.tasks.detection.boxes import pairwise_iou, to_corners
from internimage.tasks.detection.dino import CLASSIFIERS, LOWEST, OFFSETS
from internimage.tasks.detection.dino_denoising import DenoisingSettings, attention_mask, noisy_queries
from internimage.tasks.detection.dino_encoder import valid_pixels
from internimage.tasks.detection.models import on_backbone
from internimage.tasks.training.layer_decay import dense_layer_decay_scale

single_and_composite = pytest.mark.parametrize("composite", [False, True], ids=["single", "composite"])


@single_and_composite
@torch.no_grad()
def test_both_faces_find_the_same(composite: bool) -> None:
    model = small_dino(composite)
    batch = pad_images(images())
    boxes, scores, labels, counts = FixedSizeDetector(model)(batch.image, batch.sizes)
    assert boxes.shape == (2, 100, 4)
    assert counts.tolist() == [100, 100]
    for index, (image, result) in enumerate(zip(images(), model(images()), strict=True)):
        assert torch.equal(result["boxes"], boxes[index])
        assert torch.equal(result["scores"], scores[index])
        assert torch.equal(result["labels"], labels[index])
        assert result["scores"].diff().le(0).all()
        assert 1 < len(result["labels"].unique()) <= 5
        height, width = image.shape[1:]
        assert (result["boxes"] >= 0).all()
        assert (result["boxes"] <= torch.tensor([width, height, width, height])).all()


@torch.no_grad()
def test_tiny_images_have_fewer_queries() -> None:
    model = small_dino()
    for size, places in (((1, 1), 16 + 4 + 1 + 1), ((33, 5), 30)):
        (result,) = model([torch.zeros(3, *size)])
        assert len(result["boxes"]) == min(100, 5 * places)


def test_pixels_of_maps_are_padding_where_their_nearest_pixel_is() -> None:
    valid = valid_pixels(torch.tensor([[20, 64], [96, 33]]), (96, 64), (12, 8))
    assert valid.dtype == torch.bool
    assert valid[0].sum(0).tolist() == [3] * 8  # rows 0, 8 and 16 of the image
    assert valid[1].sum(1).tolist() == [5] * 12


@single_and_composite
def test_every_parameter_learns_from_images_with_and_without_objects(composite: bool) -> None:
    model = small_dino(composite).train()
    losses = model(images(), targets())
    assert len(losses) == 3 * (1 + 2 + 2) * (2 if composite else 1)
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_losses_of_half_precision_are_finite_and_those_of_full_precision() -> None:
    model = small_dino().train()
    torch.manual_seed(0)
    expected = model(images(), targets())
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images(), targets())
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    total, wanted = (float(torch.stack(list(x.values())).sum().detach()) for x in (losses, expected))
    assert total == pytest.approx(wanted, rel=0.1)


@single_and_composite
def test_images_without_objects_alone_have_the_same_losses_and_no_loss_of_boxes(composite: bool) -> None:
    model = small_dino(composite).train()
    names = model(images(), targets()).keys()
    losses = model(images()[1:], targets()[1:])
    assert losses.keys() == names
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    for name, loss in losses.items():
        assert (loss == 0) == ("box" in name or "giou" in name or "dn_" in name)


def test_the_losses_of_the_assisting_backbone_have_half_the_weight() -> None:
    model = small_dino(composite=True).train()
    batch = pad_images(images())
    truth = read_targets(targets(), batch, 5, masks=False)
    lead, maps = model.losses(batch, truth), model.backbone(batch.image)
    model.backbone.forward = lambda image: maps[::-1]
    swapped = model.losses(batch, truth)
    for name in ("interm_class", "d0.class", "box", "giou"):  # the others depend on the noise
        torch.testing.assert_close(swapped[f"{name}0_w0.5"], lead[f"{name}1"] / 2, rtol=1e-4, atol=1e-6)


def test_minimising_the_losses_finds_the_objects() -> None:
    torch.manual_seed(0)
    model = on_backbone(InternImageFeatures(head=None, **BACKBONE), small_dino_config(), 2).train()
    image, truth = [torch.zeros(3, 70, 100)], targets(2)[:1]
    for mask, value in zip(truth[0]["masks"], (2.0, -2.0), strict=True):
        image[0][:, mask.bool()] = value
    steps = 60
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, total_iters=steps)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.stack(list(model(image, truth).values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        (found,) = model.eval()(image)
    best = found["labels"][:2].argsort()  # the two objects come before all else
    assert torch.equal(found["labels"][best], truth[0]["labels"])
    assert (found["scores"][best] > 0.3).all()
    assert (pairwise_iou(found["boxes"][best], truth[0]["boxes"]).diagonal() > 0.8).all()


LABELS = [torch.tensor([0, 3, 4]), torch.tensor([]).long(), torch.tensor([2])]
BOXES = [
    torch.tensor([[0.1, 0.2, 0.3, 0.6], [0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.7, 0.6]]),
    torch.zeros(0, 4),
    torch.tensor([[0.25, 0.25, 0.75, 0.5]]),
]


def test_denoising_queries_are_groups_of_near_and_far_ones() -> None:
    torch.manual_seed(0)
    queries = noisy_queries(LABELS, BOXES, 5, DenoisingSettings(queries=100))
    assert queries.groups == 100 // 3
    assert queries.labels.shape == (3, 33 * 2 * 3)
    corners = to_corners(queries.boxes).unflatten(1, (33, 2, 3))
    labels = queries.labels.unflatten(1, (33, 2, 3))
    assert (queries.labels[1] == -1).all()
    assert (labels[2, ..., 1:] == -1).all()
    for image in (0, 2):
        count = len(LABELS[image])
        half = (BOXES[image][:, 2:] - BOXES[image][:, :2]).repeat(1, 2) / 2
        moved = (corners[image, :, :, :count] - BOXES[image]).abs() / half
        near, far = moved.unbind(1)
        assert (near <= 1 + 1e-5).all()
        assert (far <= 2 + 1e-5).all()
        inside = (corners[image, :, 1, :count] > 0) & (corners[image, :, 1, :count] < 1)
        assert (far[inside] >= 1 - 1e-5).all()
        kept = (labels[image, ..., :count] == LABELS[image]).float().mean()
        assert kept == pytest.approx(0.75 + 0.25 / 5, abs=0.1)
        rows, chosen = queries.matches(count)
        assert rows.diff().gt(0).all()
        assert torch.equal(rows.view(33, count) % 6, torch.arange(count).expand(33, -1))
        assert torch.equal(chosen.view(33, count), torch.arange(count).expand(33, -1))
    assert ((corners >= -1e-6) & (corners <= 1 + 1e-6)).all()


def test_there_is_a_group_for_any_number_of_objects() -> None:
    settings = DenoisingSettings(queries=2)
    assert noisy_queries(LABELS, BOXES, 5, settings).labels.shape == (3, 2 * 3)
    assert noisy_queries(LABELS[1:2], BOXES[1:2], 5, settings).labels.shape == (1, 0)


def test_without_noise_denoising_queries_are_the_objects() -> None:
    queries = noisy_queries(LABELS, BOXES, 5, DenoisingSettings(queries=6, label_noise=0.0, box_noise=0.0))
    rows, chosen = queries.matches(3)
    torch.testing.assert_close(to_corners(queries.boxes[0, rows]), BOXES[0][chosen])
    assert torch.equal(queries.labels[0, rows], LABELS[0][chosen])


def test_denoising_groups_see_themselves_and_the_matched_queries_which_do_not_see_them() -> None:
    queries = noisy_queries(LABELS, BOXES, 5, DenoisingSettings(queries=6))
    mask = attention_mask(queries, 4)
    expected = torch.zeros(16, 16, dtype=torch.bool)
    for first in (0, 6):
        expected[first : first + 6, first : first + 6] = True
    expected[:, 12:] = True
    assert torch.equal(mask, expected)


@torch.no_grad()
def test_denoising_queries_change_nothing_for_the_others() -> None:
    model = small_dino().double()
    batch = pad_images([image.double() for image in images()])
    truth = read_targets(targets(), batch, 5, masks=False)
    maps, size = model.maps(batch.image), batch.image.shape[2:]
    alone = model.predict(maps, size, batch.sizes)
    noisy = model.noisy_queries(truth, batch.sizes)
    count = noisy.labels.shape[1]
    assert count == 2 * 2 * 10
    beside = model.predict(maps, size, batch.sizes, noisy)
    # The first group changes, the second doesn't.
    noisy.labels[0, :4] = 4 - noisy.labels[0, :4]
    changed = model.predict(maps, size, batch.sizes, noisy)
    for one, other, third in zip(alone.layers, beside.layers, changed.layers, strict=True):
        for x, y, z in zip(one, other, third, strict=True):
            torch.testing.assert_close(y[:, count:], x, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(z[:, 4:], y[:, 4:], rtol=1e-9, atol=1e-12)
            assert not torch.allclose(z[0, :4], y[0, :4], rtol=1e-6)


@single_and_composite
def test_the_official_training_treats_the_parameters_by_these_names(composite: bool) -> None:
    model = small_dino(composite)
    names = model.renames.to_official(model.state_dict())
    for parts, official in ((OFFSETS, "sampling_offsets"), (CLASSIFIERS[:1], "cls_branches")):
        ours = {name for name in names if any(part in name for part in parts)}
        assert ours == {name for name in names if official in names[name]} != set()
    assert [name for name in names if name.startswith(LOWEST)] == [n for n in names if "level_embeds" in names[n]]
    scale = dense_layer_decay_scale((1, 1, 1, 1), 0.5, LOWEST)
    scales = {name: scale(name) for name in names}
    assert scales["encoder.level_embed"] == min(scales.values()) == 0.5**5
    slow = {name for name, factor in scales.items() if factor < 1} - {"encoder.level_embed"}
    assert bool(slow) != composite  # the official rules don't know the composite backbone's names
    assert all(name.startswith("backbone.") for name in slow)


def test_bad_targets_are_refused() -> None:
    model = small_dino().train()
    with pytest.raises(ValueError, match=r"a target for each of the 2 images, got none; call model.eval\(\)"):
        model(images())
    first, second = targets()
    with pytest.raises(ValueError, match="target 0: expected labels from 0 to 4, got 1 to 5"):
        model(images(), [{**first, "labels": torch.tensor([1, 5])}, second])


def test_what_is_not_finite_gives_a_loss_that_is_not() -> None:
    losses = small_dino().train()([torch.full((3, 32, 32), torch.nan)], targets()[:1])
    assert not torch.stack(list(losses.values())).sum().isfinite()  # and the training loop leaves the step out


def test_fresh_classifiers_have_other_classes() -> None:
    model = small_dino().half()
    model.reset_classifier(7)
    assert model.num_classes == 7
    assert all(parameter.dtype == torch.float16 for parameter in model.parameters())
    with torch.no_grad():
        (found,) = model.float()(images()[:1])
    assert found["labels"].max() == 6


@torch.no_grad()
def test_one_export_serves_every_size_and_number_of_images() -> None:
    torch.manual_seed(0)
    config = small_dino_config(decoder_layers=1)
    model = FixedSizeDetector(on_backbone(Convolutions(), config, 3)).eval()
    assert_exports_with_free_sizes(model)


@torch.no_grad()
def test_dino_compiles_whole_for_any_number_of_images() -> None:
    torch.manual_seed(0)
    config = small_dino_config(decoder_layers=1)
    model = FixedSizeDetector(on_backbone(Convolutions(), config, 3)).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for count in (2, 3):
        image, sizes = torch.randn(count, 3, 96, 70), torch.tensor([[96, 70], [90, 50], [33, 64]])[:count]
        for tensor in (image, sizes):
            torch._dynamo.mark_dynamic(tensor, 0)
        for got, expected in zip(compiled(image, sizes), model(image, sizes), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
