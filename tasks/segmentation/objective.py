"""What training minimises, for any segmentor."""

from __future__ import annotations

from torch import Tensor

from internimage.tasks.segmentation.losses import AUXILIARY_WEIGHT, pixel_loss
from internimage.tasks.segmentation.mask_loss import mask_loss
from internimage.tasks.segmentation.segmentor import Outputs


def total_loss(outputs: Outputs, auxiliary_logits: Tensor | None, labels: Tensor, *, points: int = 12544) -> Tensor:
    """The sum of all losses of a batch.

    Args:
        outputs: of the head; see `Segmentor.forward_heads`.
        auxiliary_logits: of the auxiliary head, if there is one.
        labels: [N, H, W] of an integer type, 255 where a pixel belongs to no class.
        points: at which Mask2Former compares masks.
    """
    if isinstance(outputs, Tensor):
        loss = pixel_loss(outputs, labels)
    else:
        loss = sum(mask_loss(outputs, labels, points=points).values(), labels.new_zeros((), dtype=outputs[0][0].dtype))
    if auxiliary_logits is not None:
        loss = loss + AUXILIARY_WEIGHT * pixel_loss(auxiliary_logits, labels)
    return loss
