"""Small detectors of each kind, with random weights, and what they look at."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from internimage.backbone import InternImageFeatures
from internimage.composite import CompositeInternImage
from internimage.features import FeatureInfo
from internimage.tasks.detection import DINO, MaskRCNN
from internimage.tasks.detection.configs import CONFIGS, DINOConfig, get_config
from internimage.tasks.detection.models import on_backbone

BACKBONE: dict[str, Any] = {"channels": 16, "depths": (1, 1, 1, 1), "groups": (1, 2, 4, 8), "layer_scale": 1.0}
METHODS = {
    "mask": "mask_rcnn_internimage_t_fpn_1x_coco",
    "cascade": "cascade_internimage_l_fpn_1x_coco",
    "boxes": "cascade_internimage_xl_fpn_3x_crowd_human",
}


def small_detector(method: str = "mask", num_classes: int = 5, seed: int = 0, **options: Any) -> MaskRCNN:
    """A detector in evaluation mode that finds something everywhere; `options` are the backbone's."""
    torch.manual_seed(seed)
    config = replace(CONFIGS[METHODS[method]], channels=16, hidden_channels=24)
    model = on_backbone(InternImageFeatures(head=None, **{**BACKBONE, **options}), config, num_classes)
    for parameter in (*model.rpn.parameters(), *model.roi_heads.box_heads.parameters()):
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1 if parameter.dim() == 2 else 0.05)
    for buffer in model.buffers():
        buffer.add_(1)
    return model.eval()


def small_dino(composite: bool = False, num_classes: int = 5, seed: int = 0, **options: Any) -> DINO:
    """A DINO in evaluation mode whose queries differ; `options` are the backbone's."""
    torch.manual_seed(seed)
    backbone = CompositeInternImage if composite else InternImageFeatures
    arguments = {**BACKBONE, **({} if composite else {"head": None}), **options}
    model = on_backbone(backbone(**arguments), small_dino_config(composite=composite), num_classes)
    for parameter in model.parameters():
        if not parameter.any():  # last layers of boxes, offsets and gammas
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def small_dino_config(**changes: Any) -> DINOConfig:
    config = get_config("dino_internimage_atto_small")
    small = {"hidden_channels": 32, "encoder_layers": 1, "decoder_layers": 2, "queries": 30, "denoising_queries": 20}
    return replace(config, **{**small, **changes})


def assert_exports_with_free_sizes(model: nn.Module) -> None:
    """One program of a `FixedSizeDetector` serves every size and number of images."""
    batch = torch.export.Dim("batch", min=1, max=64)
    height, width = (torch.export.Dim(name, min=65, max=1024) for name in ("height", "width"))
    program = torch.export.export(
        model,
        (torch.randn(2, 3, 128, 160), torch.tensor([[128, 160], [100, 120]])),
        dynamic_shapes=({0: batch, 2: height, 3: width}, {0: batch}),
    )
    exported = program.module()
    for shape in ((1, 3, 96, 70), (3, 3, 201, 136)):
        image = torch.randn(shape)
        sizes = torch.tensor([shape[2:]]).expand(shape[0], 2) - torch.arange(shape[0]).unsqueeze(1)
        for got, expected in zip(exported(image, sizes), model(image, sizes), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, *size, generator=generator) for size in ((70, 100), (96, 64))]


def targets(num_classes: int = 5) -> list[dict[str, Tensor]]:
    """Two rectangles, and an image without objects."""
    boxes = torch.tensor([[10.0, 12.0, 50.0, 60.0], [40.0, 5.0, 95.0, 45.0]])
    masks = torch.zeros(2, 70, 100, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "masks": torch.zeros(0, 96, 64)}
    return [{"boxes": boxes, "labels": torch.tensor([0, num_classes - 1]), "masks": masks}, none]


class Convolutions(nn.Module):
    """A backbone that exports quickly."""

    feature_info = FeatureInfo([{"num_chs": 8}] * 4)

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(8 if i else 3, 8, kernel_size=3, stride=2 if i else 4, padding=1) for i in range(4)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [image]
        for conv in self.convs:
            maps.append(conv(maps[-1]).relu())
        return maps[1:]
