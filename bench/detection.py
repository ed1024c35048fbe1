"""Small detectors from scratch on a folder of annotated pictures, in the same loop; a table at the end.

python bench/detection.py --data cells --output runs/cells
python bench/detection.py --data nuclei --output runs/nuclei --masks

The yardstick is torchvision's Faster or Mask R-CNN on a ResNet-18 and feature pyramid (pip install torchvision). The
same command again goes on where it stopped; with --table it only prints what there is.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from internimage.tasks.detection.detections import Detections
from internimage.tasks.detection.metrics import headline
from internimage.tasks.detection.recipes import RECIPES, DetectionRecipe
from internimage.tasks.detection.train import build_model, train
from internimage.tasks.training.distributed import Processes

OURS, YARDSTICK = "internimage_femto", "torchvision_resnet18"


class Torchvision(nn.Module):
    """A detector of torchvision under our conventions: normalised images, labels from 0.

    A call trains; evaluation calls `look` and `draw`.
    """

    def __init__(self, num_classes: int, recipe: DetectionRecipe) -> None:
        super().__init__()
        from torchvision.models import detection, resnet
        from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
        from torchvision.models.detection.transform import GeneralizedRCNNTransform

        class AsItIs(GeneralizedRCNNTransform):
            """No change of size or values: the images have been brought to both."""

            def normalize(self, image: Tensor) -> Tensor:
                return image

            def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
                return image, target

        backbone = _resnet_fpn_extractor(resnet.resnet18(), trainable_layers=5)
        kind = detection.MaskRCNN if recipe.config.masks else detection.FasterRCNN
        self.detector = kind(backbone, num_classes + 1, box_detections_per_img=recipe.detections)
        self.detector.transform = AsItIs(1, 1, [0.0] * 3, [1.0] * 3)

    def forward(self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]) -> Any:
        return self.detector(list(images), [{**target, "labels": target["labels"] + 1} for target in targets])

    @property
    def has_masks(self) -> bool:
        return bool(self.detector.roi_heads.has_mask())

    def look(self, image: Tensor) -> tuple[Any, Detections]:
        images, _ = self.detector.transform([image])
        pyramid = self.detector.backbone(images.tensors)
        proposals, _ = self.detector.rpn(images, pyramid)
        heads = self.detector.roi_heads
        regions = heads.box_head(heads.box_roi_pool(pyramid, proposals, images.image_sizes))
        found = heads.postprocess_detections(*heads.box_predictor(regions), proposals, images.image_sizes)
        (boxes,), (scores,), (labels,) = found
        detections = Detections(boxes[None], scores[None], labels[None] - 1, torch.tensor([len(boxes)]))
        return (pyramid, images.image_sizes), detections

    def draw(self, maps: Any, boxes: Tensor, labels: Tensor) -> Tensor:
        heads, (pyramid, sizes) = self.detector.roi_heads, maps
        logits = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(pyramid, [boxes], sizes)))
        return logits[torch.arange(len(labels)), labels + 1].sigmoid()


def run(model: str, recipe: DetectionRecipe, data: Path, output: Path) -> None:
    """Train one model; its folder tells its parameters."""

    def build(recipe: DetectionRecipe, num_classes: int) -> nn.Module:
        torch.manual_seed(recipe.seed)
        built = build_model(recipe, num_classes) if model == OURS else Torchvision(num_classes, recipe)
        parameters = sum(parameter.numel() for parameter in built.parameters())
        (output / "facts.json").write_text(json.dumps({"parameters": parameters}))
        return built

    train(recipe, data, output, Processes(torch.device("cpu")), make_model=build)


def row(model: str, output: Path, keys: Sequence[str]) -> str:
    """What a finished run gave: parameters, speed in training, and the figures of the best weights."""
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    speeds = sorted(row["images_per_second"] for row in rows if "loss" in row)
    metrics = json.loads((output / "metrics.json").read_text())
    parameters = json.loads((output / "facts.json").read_text())["parameters"]
    figures = "".join(f"{metrics[name]:11.2%}" if name in metrics else f"{'-':>11}" for name in keys)
    return f"{model:24}{parameters / 1e6:8.2f} M{speeds[len(speeds) // 2]:9.2f}{figures}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder that `internimage train detection` takes")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--masks", action="store_true", help="Mask R-CNN instead of Faster R-CNN")
    parser.add_argument("--models", nargs="+", default=[OURS, YARDSTICK], choices=[OURS, YARDSTICK])
    parser.add_argument("--epochs", type=int, default=RECIPES["quick"].epochs)
    parser.add_argument("--detections", type=int, default=RECIPES["quick"].detections, help="of an image, at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="train nothing, print the table of what there is")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = replace(
        RECIPES["quick_masks" if arguments.masks else "quick"],
        epochs=arguments.epochs,
        eval_epochs=max(1, arguments.epochs // 2),
        detections=arguments.detections,
    )
    if not arguments.table:
        for model in arguments.models:
            run(model, recipe, arguments.data, arguments.output / model)
    kinds = ("box", "mask") if arguments.masks else ("box",)
    keys = [f"{kind}_{figure}" for kind in kinds for figure in ("ap", "ap50", "ap75")]
    print(f"best by {headline('coco', masks=arguments.masks)}\n{'':24}{'parameters':>10}{'images/s':>9}", end="")
    print("".join(f"{key:>11}" for key in keys))
    for model in arguments.models:
        print(row(model, arguments.output / model, keys))


if __name__ == "__main__":
    main()
