"""The two faces of a detector agree; it trains, and refuses what it can't learn from."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_detectors import METHODS, Convolutions, assert_exports_with_free_sizes, images, small_detector, targets

from internimage.tasks.detection import FixedSizeDetector
from internimage.tasks.detection.batch import pad_images
from internimage.tasks.detection.boxes import pairwise_iou
from internimage.tasks.detection.configs import get_config
from internimage.tasks.detection.masks import paste_masks
from internimage.tasks.detection.models import on_backbone

each_method = pytest.mark.parametrize("method", METHODS)


@each_method
@torch.no_grad()
def test_both_faces_find_the_same(method: str) -> None:
    model = small_detector(method, 2)
    batch = pad_images(images())
    assert batch.image.shape == (2, 3, 96, 128)
    boxes, scores, labels, counts, *masks = FixedSizeDetector(model)(batch.image, batch.sizes)
    found = model(images())
    assert len(found) == 2
    for index, (image, result) in enumerate(zip(images(), found, strict=True)):
        count = int(counts[index])
        assert count > 5
        assert torch.equal(result["boxes"], boxes[index, :count])
        assert torch.equal(result["scores"], scores[index, :count])
        assert torch.equal(result["labels"], labels[index, :count])
        assert (scores[index, count:] == -1).all()
        size = tuple(image.shape[1:])
        limits = torch.tensor([size[1], size[0]] * 2)
        assert (result["boxes"] >= 0).all()
        assert (result["boxes"] <= limits).all()
        assert result["scores"].diff().le(0).all()
        assert ("masks" in result) == bool(masks) == (method != "boxes")
        if masks:
            expected = paste_masks(masks[0][index, :count], boxes[index, :count], size)
            assert result["masks"].shape == (count, *size)
            assert (result["masks"] != expected).float().mean() < 1e-4  # the convolutions saw other batches


@torch.no_grad()
def test_images_in_which_nothing_is_found_have_empty_results() -> None:
    model = small_detector()
    model.roi_heads.box_heads[0].classifier.bias[-1] = 1000.0  # background
    for result, image in zip(model(images()), images(), strict=True):
        assert {key: tuple(value.shape) for key, value in result.items()} == {
            "boxes": (0, 4),
            "scores": (0,),
            "labels": (0,),
            "masks": (0, *image.shape[1:]),
        }


@torch.no_grad()
def test_tiny_images_and_one_pixel_are_looked_at() -> None:
    model = small_detector()
    for size in ((1, 1), (33, 5)):
        (result,) = model([torch.zeros(3, *size)])
        assert result["masks"].shape[1:] == size


@each_method
def test_every_parameter_learns_from_images_with_and_without_objects(method: str) -> None:
    model = small_detector(method, 2).train()
    losses = model(images(), targets(2))
    assert all(loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@each_method
def test_images_without_objects_alone_have_finite_losses(method: str) -> None:
    model = small_detector(method, 2).train()
    losses = model(images()[1:], targets(2)[1:])
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert all(float(loss.detach()) == 0 for name, loss in losses.items() if name.endswith(("box", "mask")))


def test_minimising_the_losses_finds_the_objects() -> None:
    model = small_detector(num_classes=2, seed=3).train()
    image = [torch.zeros(3, 70, 100)]
    truth = targets(2)[:1]
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
    for label, box, mask in zip(truth[0]["labels"], truth[0]["boxes"], truth[0]["masks"], strict=True):
        best = (found["labels"] == label).nonzero()[0]
        assert found["scores"][best] > 0.8
        assert pairwise_iou(found["boxes"][best], box.unsqueeze(0)) > 0.8
        drawn = found["masks"][best][0]
        assert (drawn & mask.bool()).sum() / (drawn | mask.bool()).sum() > 0.75


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.tensor([[5.0, 5, 4, 9], [0, 0, 1, 1]])}, "target 0: expected corners x1 < x2 and y1 < y2"),
        ({"boxes": torch.tensor([[5.0, 5, torch.nan, 9], [0, 0, 1, 1]])}, "target 0: expected corners"),
        ({"boxes": torch.rand(2, 5)}, r"expected boxes \[G, 4\] and labels \[G\], got \[2, 5\] and \[2\]"),
        ({"labels": torch.tensor([1, 5])}, "expected labels from 0 to 4, got 1 to 5"),
        ({"labels": torch.tensor([-1, 0])}, "expected labels from 0 to 4, got -1 to 0"),
        ({"masks": torch.zeros(2, 100, 70)}, r"expected masks \[2, 70, 100\], .* got \[2, 100, 70\]"),
        ({"masks": torch.zeros(1, 70, 100)}, r"expected masks \[2, 70, 100\]"),
    ],
)
def test_targets_that_cannot_be_learned_are_refused(change: dict[str, Any], message: str) -> None:
    model = small_detector().train()
    first, second = targets()
    with pytest.raises(ValueError, match=message):
        model(images(), [{**first, **change}, second])


def test_what_is_missing_is_told() -> None:
    model = small_detector().train()
    with pytest.raises(ValueError, match=r"a target for each of the 2 images, got none; call model.eval\(\)"):
        model(images())
    with pytest.raises(ValueError, match="a target for each of the 2 images, got 1"):
        model(images(), targets()[:1])
    without = [{key: value for key, value in target.items() if key != "masks"} for target in targets()]
    with pytest.raises(ValueError, match="target 0: expected boxes, labels, masks, got no masks"):
        model(images(), without)
    with pytest.raises(ValueError, match="expected at least one image"):
        model.eval()([])
    with pytest.raises(ValueError, match=r"got \[1, 3, 8, 8\] at index 0"):
        model([torch.zeros(1, 3, 8, 8)])


@torch.no_grad()
def test_one_export_serves_every_size_and_number_of_images() -> None:
    torch.manual_seed(0)
    config = replace(get_config(METHODS["mask"]), channels=8, hidden_channels=8)
    model = FixedSizeDetector(on_backbone(Convolutions(), config, 3)).eval()
    assert_exports_with_free_sizes(model)


@torch.no_grad()
def test_a_detector_compiles_whole() -> None:
    torch.manual_seed(0)
    config = replace(get_config(METHODS["cascade"]), channels=8, hidden_channels=8)
    model = FixedSizeDetector(on_backbone(Convolutions(), config, 3)).eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="eager")
    image, sizes = torch.randn(2, 3, 96, 70), torch.tensor([[96, 70], [90, 50]])
    for got, expected in zip(compiled(image, sizes), model(image, sizes), strict=True):
        torch.testing.assert_close(got, expected)
