"""A backbone and a head: image -> scores of the classes for each pixel."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from internimage.renames import BACKBONE_TABLE, Renames, prefixed
from internimage.tasks.layers.conv_norm import resize
from internimage.tasks.segmentation.mask2former import Mask2FormerHead, MaskPrediction
from internimage.tasks.segmentation.pixel_head import FCNHead, PixelHead

Outputs = Tensor | list[MaskPrediction]  # of a head: logits, or what the queries predict


class Segmentor(nn.Module):
    """A model of semantic segmentation.

    Shapes: image [N, 3, H, W], normalised, of any size -> scores [N, num_classes, H, W]: logits, and of a Mask2Former
    sums of probabilities. `internimage.tasks.segmentation.inference` makes probabilities of them. In training mode it
    returns what the losses take instead: see `forward_heads`.

    Args:
        backbone: image -> maps [N, C_i, H_i, W_i], finest first; see `internimage.create_model(features_only=True)`.
        head: a `UperNetHead`, `SegFormerHead` or `Mask2FormerHead` for these maps.
        auxiliary_head: helps the training; has no part in inference.
    """

    def __init__(
        self, backbone: nn.Module, head: PixelHead | Mask2FormerHead, auxiliary_head: FCNHead | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.auxiliary_head = auxiliary_head

    @property
    def num_classes(self) -> int:
        return self.head.num_classes

    @property
    def renames(self) -> Renames:
        """The official names of the parameters."""
        auxiliary = () if self.auxiliary_head is None else self.auxiliary_head.renames
        return Renames(
            (
                *prefixed(BACKBONE_TABLE, "backbone.", "backbone."),
                *prefixed(self.head.renames, "head.", "decode_head."),
                *prefixed(auxiliary, "auxiliary_head.", "auxiliary_head."),
            )
        )

    def forward(self, image: Tensor) -> Any:
        if self.training:
            return self.forward_heads(image)
        scores = self.head.semantic_scores(self.head(self.backbone(image)))
        return resize(scores, image.shape[2:])

    def forward_heads(self, image: Tensor) -> tuple[Outputs, Tensor | None]:
        """Image -> what the losses take: the head's outputs, and the auxiliary head's logits if there is one."""
        maps = self.backbone(image)
        return self.head(maps), None if self.auxiliary_head is None else self.auxiliary_head(maps)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifiers by freshly initialised ones."""
        reference = next(self.parameters())
        for head in (self.head, self.auxiliary_head):
            if head is not None:
                head.reset_classifier(num_classes)
                head.to(device=reference.device, dtype=reference.dtype)
