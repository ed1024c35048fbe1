"""Each part of a detector computes what the official one does."""

import numpy as np
import pytest
import torch
from golden_detectors import unpacked
from golden_heads import Golden, deviation, golden

from internimage.tasks.detection.anchors import Anchors
from internimage.tasks.detection.assign import Assigner
from internimage.tasks.detection.boxes import BoxCoder, clip_boxes
from internimage.tasks.detection.losses import delta_loss, giou_loss, mask_loss
from internimage.tasks.detection.masks import mask_targets, paste_masks, paste_probability
from internimage.tasks.detection.pooling import level_of
from internimage.tasks.detection.suppression import keep_best

CODERS = {
    "rpn": BoxCoder(),
    "s0": BoxCoder((0.1, 0.1, 0.2, 0.2)),
    "s1": BoxCoder((0.05, 0.05, 0.1, 0.1)),
    "s2": BoxCoder((0.033, 0.033, 0.067, 0.067)),
}
IMAGE = torch.tensor([90, 120])


@pytest.fixture(scope="module")
def parts() -> Golden:
    return golden("parts")


def test_anchors(parts: Golden) -> None:
    like, anchors = torch.zeros(()), Anchors()
    for level, stride in enumerate(anchors.strides):
        torch.testing.assert_close(anchors.shapes(stride, like), parts[f"out/base_anchors.{level}"])
        inside = anchors.inside_padded(level, -(-100 // stride), -(-130 // stride), (100, 130))
        assert torch.equal(inside, parts[f"out/valid_flags_pad100x130.{level}"])
    torch.testing.assert_close(anchors.of_level(1, 3, 4, like), parts["out/anchors_level1_3x4"])


@pytest.mark.parametrize("name", CODERS)
def test_box_coder(name: str, parts: Golden) -> None:
    coder, boxes = CODERS[name], parts["in/coder_boxes"]
    decoded = coder.decode(boxes.unsqueeze(1), parts["in/coder_deltas"].unflatten(1, (2, 4)))
    assert deviation(decoded.flatten(1), parts[f"out/decode_noclip_{name}"]) < 1e-6
    torch.testing.assert_close(clip_boxes(decoded, IMAGE).flatten(1), parts[f"out/decode_{name}"], atol=1e-4, rtol=1e-5)
    assert deviation(coder.encode(boxes, boxes.flip(0)), parts[f"out/encode_{name}"]) < 1e-6


@pytest.mark.parametrize(
    ("name", "assigner"),
    [
        ("rpn", Assigner(0.7, 0.3, least=0.3)),
        ("rcnn_mask", Assigner(0.5, 0.5, least=0.5)),
        ("cascade1", Assigner(0.6, 0.6)),
    ],
)
def test_assigner(name: str, assigner: Assigner, parts: Golden) -> None:
    like = torch.zeros(())
    official = parts[f"out/assign_{name}.gt_inds"].long()  # 0 is background, -1 ignored
    anchors = assigned_boxes(len(official), like)
    expected = torch.where(official == 0, -1, torch.where(official < 0, -2, official - 1))
    assert torch.equal(assigner.assign(anchors, parts["in/assign_gt"]), expected)


def assigned_boxes(count: int, like: torch.Tensor) -> torch.Tensor:
    """The anchors of a pyramid over 100 x 130 pixels, of which the reference says the number alone."""
    anchors = Anchors()
    shapes = [(-(-100 // stride), -(-130 // stride)) for stride in anchors.strides]
    boxes = torch.cat([anchors.of_level(level, *shape, like) for level, shape in enumerate(shapes)])
    assert len(boxes) == count
    return boxes


@pytest.mark.parametrize(("threshold", "iou", "count"), [(0.05, 0.5, 100), (0.3, 0.5, 20), (0.0, 0.7, 450)])
def test_suppression_by_class(threshold: float, iou: float, count: int, parts: Golden) -> None:
    boxes, scores = parts["in/nms_boxes"], parts["in/nms_scores"][:, :-1]
    labels = torch.arange(3).expand(150, 3)
    candidates = boxes.unsqueeze(1).expand(-1, 3, -1).flatten(0, 1).unsqueeze(0)
    groups = torch.where(scores > threshold, labels, -1).flatten().unsqueeze(0)
    (kept, classes), best, counts = keep_best(
        (candidates, labels.flatten().unsqueeze(0)), candidates, scores.flatten().unsqueeze(0), groups, iou, count
    )
    key = f"out/nms_{threshold}_{iou}_{count if threshold else -1}"
    expected = parts[f"{key}.dets"]
    assert int(counts) == len(expected)
    assert torch.equal(kept[0, :counts], expected[:, :4])
    assert torch.equal(best[0, :counts], expected[:, 4])
    assert torch.equal(classes[0, :counts], parts[f"{key}.labels"])


def test_levels(parts: Golden) -> None:
    side = parts["in/level_box_size"]
    boxes = torch.stack((torch.zeros_like(side), torch.zeros_like(side), side, side), dim=1)
    assert torch.equal(level_of(boxes), parts["out/level_of_box"])


def test_mask_targets(parts: Golden) -> None:
    masks = unpacked(parts, "in/gt_masks_packed", tuple(parts["in/gt_masks_shape"].tolist()))
    got = mask_targets(masks, parts["in/mask_target_gt"], parts["in/mask_target_boxes"], 28)
    assert torch.equal(got, unpacked(parts, "out/mask_targets_28_packed", (6, 28, 28)))


def test_pasted_masks(parts: Golden) -> None:
    probabilities, boxes = parts["in/paste_logits"].squeeze(1).sigmoid(), parts["in/paste_boxes"]
    expected = unpacked(parts, "out/paste_masks_packed", (6, 90, 120))
    assert torch.equal(paste_masks(probabilities, boxes, (90, 120)), expected)
    for index, probability in zip((0, 2), parts["out/paste_probability_images_0_2"], strict=True):
        got = paste_probability(probabilities[index], boxes[index], slice(0, 90), slice(0, 120))
        torch.testing.assert_close(got, probability, atol=1e-5, rtol=0)


def test_box_losses(parts: Golden) -> None:
    boxes, truth, weight = parts["in/coder_boxes"][:20], parts["in/coder_boxes"][20:], parts["in/reg_weight"]

    class Same(BoxCoder):
        """Deltas that are boxes: the reference has losses of boxes."""

        def encode(self, boxes, targets):
            return targets

        def decode(self, boxes, deltas):
            return deltas

    def weighted(loss, **options):
        each = [loss(a[None], a[None], b[None], Same(), **options) for a, b in zip(boxes, truth, strict=True)]
        return (torch.stack(each) * weight).sum() / 7

    assert deviation(weighted(delta_loss), parts["out/reg_l1_avg7"]) < 1e-6
    assert deviation(weighted(delta_loss, beta=1 / 9), parts["out/reg_smooth_l1_beta_1_9_avg7"]) < 1e-6
    assert deviation(weighted(giou_loss), parts["out/reg_giou_w10_avg7"]) < 1e-5


def test_mask_loss(parts: Golden) -> None:
    got = mask_loss(parts["in/mask_logit"], parts["in/mask_class"], parts["in/mask_target"])
    assert deviation(got, torch.from_numpy(np.asarray(parts.arrays["out/mask_bce"])).squeeze()) < 1e-6
