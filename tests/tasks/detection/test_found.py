"""What is found in a picture is what the model says, whatever the view, at the size of the picture."""

from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_masks
from small_detectors import small_detector
from torch import Tensor, nn

from internimage.tasks.detection.inference import find_objects
from internimage.tasks.detection.matching import overlaps
from internimage.tasks.detection.merging import MERGES
from internimage.tasks.detection.seeing import limit_detections
from internimage.tasks.detection.views import Views
from internimage.tasks.images import Image

SUPPRESS = MERGES["nms"]


def photo(height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class Stub(nn.Module):
    """A detector of another kind: it sees a bright box in the image, and one in the image's right upper corner."""

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        results = []
        for image in images:
            rows, columns = torch.nonzero(image[0] > 0.5, as_tuple=True)
            bright = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            corner = [image.shape[2] - 4, 0, image.shape[2], 4]
            boxes = torch.tensor([bright, corner], dtype=torch.float32)
            results.append({"boxes": boxes, "scores": torch.tensor([0.9, 0.6]), "labels": torch.tensor([1, 0])})
        return results


@pytest.mark.parametrize("method", ["mask", "cascade", "boxes"])
def test_one_view_is_what_the_detector_returns(method: str) -> None:
    model = small_detector(method)
    image = photo(70, 90)
    (view,) = Views(None)(image)
    found = find_objects(model, [view], (70, 90), mirrored=False, merge=SUPPRESS, limit=100)
    with torch.inference_mode():
        (expected,) = model([view])
    assert len(found.boxes) > 5
    for name in ("boxes", "scores", "labels"):
        np.testing.assert_allclose(getattr(found, name), expected[name].numpy(), rtol=1e-5, atol=1e-4)
    if method == "boxes":
        assert found.masks is None
    else:
        masks = np.stack([coco_masks.decode(mask) for mask in found.masks or ()])
        assert (masks != expected["masks"].numpy()).mean() < 1e-4


def test_boxes_and_masks_are_of_the_picture_whatever_the_view() -> None:
    model = small_detector()
    image = photo(60, 100)
    for bounds in ((200, 120), (50, 200)):
        (view,) = Views(bounds)(image)
        found = find_objects(model, [view], (60, 100), mirrored=False, merge=SUPPRESS, limit=20)
        assert 0 < len(found.boxes) <= 20
        assert (found.boxes >= 0).all()
        assert (found.boxes <= [100, 60, 100, 60]).all()
        assert (np.diff(found.scores) <= 0).all()
        for mask, box in zip(found.masks or (), found.boxes, strict=True):
            assert mask["size"] == [60, 100]
            x, y, width, height = coco_masks.toBbox(mask)
            if width:  # a mask stays in its box, but for the width of a pixel
                assert (np.array([x, y]) >= box[:2] - 1).all()
                assert (np.array([x + width, y + height]) <= box[2:] + 1).all()


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("mirrored", [False, True])
def test_views_of_any_scale_and_their_mirror_images_meet_in_the_picture(merge: str, mirrored: bool) -> None:
    image = np.zeros((80, 120, 3), np.uint8)
    image[20:60, 20:50] = 255
    views = Views(None, (0.5, 1.0, 2.0))(image)
    found = find_objects(Stub(), views, (80, 120), mirrored=mirrored, merge=MERGES[merge], limit=50)
    assert found.labels[0] == 1
    assert overlaps(found.boxes[:1], np.float32([[20, 20, 50, 60]]))[0, 0] > 0.9
    corners = found.boxes[(found.labels == 0) & (found.scores > 0.05)]
    left = (corners[:, 0] < 30).any()
    assert left == mirrored  # what is at the right of a mirror image is at the left of the picture
    assert (corners[:, 2] > 110).any()
    assert found.masks is None


def test_a_mirrored_picture_seen_in_the_mirror_is_the_picture() -> None:
    model = small_detector()
    image = photo(64, 96)
    plain, mirror = (Views(None)(picture)[0] for picture in (image, image[:, ::-1]))

    def find(view: Tensor) -> Any:
        return find_objects(model, [view], (64, 96), mirrored=True, merge=SUPPRESS, limit=30)

    ours, theirs = find(plain), find(mirror)
    turned = theirs.boxes.copy()
    turned[:, [0, 2]] = 96 - theirs.boxes[:, [2, 0]]
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-4)
    np.testing.assert_allclose(ours.boxes, turned, atol=1e-2)
    for mask, other in zip(ours.masks, theirs.masks, strict=True):
        assert (coco_masks.decode(mask) != coco_masks.decode(other)[:, ::-1]).mean() < 1e-3


def test_a_model_finds_as_many_as_it_is_told() -> None:
    model = small_detector()
    (view,) = Views((320, 320))(photo(64, 96))
    counts = {}
    for limit in (3, 100, 300):
        limit_detections(model, limit)
        counts[limit] = len(find_objects(model, [view], (64, 96), mirrored=False, merge=SUPPRESS, limit=limit).boxes)
    assert counts[3] == 3
    assert counts[100] == 100
    assert 100 < counts[300] <= 300


def test_a_picture_without_objects_has_none() -> None:
    class Blind(nn.Module):
        def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
            empty = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
            return [empty for _ in images]

    views = Views(None, (1.0, 2.0))(photo(30, 40))
    for merge in MERGES.values():
        found = find_objects(Blind(), views, (30, 40), mirrored=True, merge=merge, limit=10)
        assert found.boxes.shape == (0, 4)
    with pytest.raises(ValueError, match="expected at least one view"):
        find_objects(Blind(), [], (30, 40), mirrored=False, merge=SUPPRESS, limit=10)


@pytest.mark.parametrize(
    ("bounds", "factors", "message"),
    [((0, 3), (1,), "two sides of at least 1 pixel"), (None, (), "at least one"), (None, (1, -1), "factors above 0")],
)
def test_views_that_can_not_be_are_refused(bounds: Any, factors: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Views(bounds, factors)


def test_views_keep_the_shape_of_the_picture_within_their_bounds() -> None:
    sizes = [tuple(view.shape) for view in Views((1333, 800), (1.0, 0.5))(photo(480, 640))]
    assert sizes == [(3, 800, 1067), (3, 400, 533)]
