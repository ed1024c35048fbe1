"""Mask R-CNN on InternImage-T, one image of 800 x 1216: its parts, by both backends, and torchvision's beside them.

torchvision's has a ResNet-50 (4.1 GFLOPs at 224; InternImage-T has 4.9). Both have random weights, a classifier that is
sure of something everywhere, and masks for the same 100 boxes.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from interleaved import Job, Table, compare
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from internimage.ops import use_backend
from internimage.tasks.detection import MaskRCNN, create_detector
from internimage.tasks.detection.masks import paste_masks
from internimage.tasks.detection.pooling import join_rois

SIZE = (800, 1216)
PARTS = ("backbone", "pyramid", "proposals", "boxes", "masks", "pasting")
Parts = dict[str, Callable[[], Any]]


def some_boxes() -> Tensor:
    """100 boxes of all sizes, [100, 4]."""
    torch.manual_seed(0)
    sides = 32 * 2 ** (4 * torch.rand(100, 2))
    places = torch.rand(100, 2) * (torch.tensor(SIZE[::-1]) - sides)
    return torch.cat((places, places + sides), dim=1)


def make_sure(classifier: torch.nn.Linear) -> None:
    """Give a classifier weights that raise many classes over the threshold of detections."""
    torch.nn.init.normal_(classifier.weight, std=0.5)


def our_parts(model: MaskRCNN, image: Tensor) -> Parts:
    """Each part by itself, on what the parts before it gave."""
    sizes, boxes, labels = torch.tensor([SIZE]), some_boxes(), torch.zeros(100, dtype=torch.long)
    maps = model.backbone(image)
    pyramid = model.fpn(maps)
    proposals = model.rpn.propose(model.rpn(pyramid), sizes, model.limits)
    drawn = model.roi_heads.draw_masks(pyramid, join_rois([boxes]), labels)
    return {
        "backbone": lambda: model.backbone(image),
        "pyramid": lambda: model.fpn(maps),
        "proposals": lambda: model.rpn.propose(model.rpn(pyramid), sizes, model.limits),
        "boxes": lambda: model.roi_heads.detect(pyramid, proposals, sizes),
        "masks": lambda: model.roi_heads.draw_masks(pyramid, join_rois([boxes]), labels),
        "pasting": lambda: paste_masks(drawn, boxes, SIZE),
    }


def torchvision_parts(image: Tensor) -> Parts:
    """The same of torchvision's model."""
    from torchvision.models import detection
    from torchvision.models.detection.image_list import ImageList
    from torchvision.models.detection.roi_heads import maskrcnn_inference, paste_masks_in_image

    torch.manual_seed(0)
    model = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=81).eval()
    heads = model.roi_heads
    make_sure(heads.box_predictor.cls_score)
    images, boxes, labels = ImageList(image, [SIZE]), some_boxes(), torch.ones(100, dtype=torch.long)
    maps = model.backbone.body(image)
    pyramid = model.backbone.fpn(maps)
    proposals, _ = model.rpn(images, pyramid)

    def find_boxes() -> Any:
        regions = heads.box_head(heads.box_roi_pool(pyramid, proposals, [SIZE]))
        return heads.postprocess_detections(*heads.box_predictor(regions), proposals, [SIZE])

    def draw() -> Tensor:
        regions = heads.mask_head(heads.mask_roi_pool(pyramid, [boxes], [SIZE]))
        (masks,) = maskrcnn_inference(heads.mask_predictor(regions), [labels])
        return masks

    drawn = draw()
    return {
        "backbone": lambda: model.backbone.body(image),
        "pyramid": lambda: model.backbone.fpn(maps),
        "proposals": lambda: model.rpn(images, pyramid),
        "boxes": find_boxes,
        "masks": draw,
        "pasting": lambda: paste_masks_in_image(drawn, boxes, SIZE) > 0.5,
    }


def by_backend(backend: Any, call: Callable[[], Any]) -> Job:
    def run() -> None:
        with use_backend(backend), torch.inference_mode():
            call()

    return run


@pytest.fixture(scope="module")
def variants() -> tuple[dict[str, dict[str, Job]], dict[str, str]]:
    """For each variant the jobs of its parts, and why others are missing."""
    torch.manual_seed(0)
    model = create_detector("mask_rcnn_internimage_t_fpn_1x_coco").eval()
    make_sure(model.roi_heads.box_heads[0].classifier)
    image = torch.randn(1, 3, *SIZE)
    missing: dict[str, str] = {}
    with torch.inference_mode():
        ours = our_parts(model, image)
        found: dict[str, dict[str, Job]] = {
            f"ours, {backend}": {part: by_backend(backend, call) for part, call in ours.items()}
            for backend in ("native", "torch")
        }
        try:
            theirs = torchvision_parts(image)
        except ImportError:
            missing["torchvision, ResNet-50"] = "install torchvision"
        else:
            found["torchvision, ResNet-50"] = {part: by_backend("native", call) for part, call in theirs.items()}
    return found, missing


def all_of(jobs: list[Job]) -> Job:
    def run() -> None:
        for job in jobs:
            job()

    return run


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", [*PARTS, "all after the backbone"])
def test_part(
    benchmark: BenchmarkFixture,
    tables: list[Table],
    variants: tuple[dict[str, dict[str, Job]], dict[str, str]],
    part: str,
) -> None:
    found, missing = variants
    jobs = {
        name: parts[part] if part in parts else all_of([parts[x] for x in PARTS[1:]]) for name, parts in found.items()
    }
    table = compare(f"Mask R-CNN, one image of 800 x 1216: {part}", jobs, missing=missing, seconds=20)
    tables.append(table)
    benchmark.extra_info.update(medians=table.medians, ratios=table.ratios, missing=missing)
    benchmark.pedantic(jobs["ours, native"], rounds=3)
