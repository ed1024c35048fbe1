"""Images of different sizes as one batch, and what is known of the objects in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

DIVISOR = 32  # the sides of a padded image are multiples of the backbone's coarsest stride


class ImageBatch(NamedTuple):
    """Images padded with 0 at the right and the bottom.

    Attributes:
        image: [N, 3, H, W].
        sizes: [N, 2], height and width of each image without padding, pixels.
        padded_sizes: [N, 2], height and width that it would have alone.
    """

    image: Tensor
    sizes: Tensor
    padded_sizes: Tensor

    def size(self, index: int) -> tuple[int, int]:
        height, width = self.sizes[index].tolist()
        return height, width

    def padded_size(self, index: int) -> tuple[int, int]:
        height, width = self.padded_sizes[index].tolist()
        return height, width


def pad_images(images: Sequence[Tensor]) -> ImageBatch:
    """Put normalised images [3, H, W] into one batch.

    Raises:
        ValueError: no image, or one of another shape.
    """
    if not images:
        raise ValueError("expected at least one image, got an empty list")
    for index, image in enumerate(images):
        if image.dim() != 3 or image.shape[0] != images[0].shape[0] or not image.numel():
            raise ValueError(
                f"expected images [3, H, W] of at least one pixel, got {list(image.shape)} at index {index}; give a "
                "batch as a list of its images: list(batch)"
            )
    sizes = torch.tensor([image.shape[1:] for image in images])
    padded = (sizes + DIVISOR - 1) // DIVISOR * DIVISOR
    height, width = padded.amax(dim=0).tolist()
    batch = torch.stack([pad_to(image, height, width) for image in images])
    return ImageBatch(batch, sizes.to(batch.device), padded.to(batch.device))


def pad_to(image: Tensor, height: int, width: int) -> Tensor:
    """Pad [..., h, w] with 0 at the right and the bottom."""
    return F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]))


class Truth(NamedTuple):
    """The objects of one image: boxes [G, 4], labels [G], and masks [G, H, W] where they are learned."""

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None


def read_targets(
    targets: Sequence[Mapping[str, Tensor]] | None, images: ImageBatch, num_classes: int, masks: bool
) -> list[Truth]:
    """What is told of the objects of each image; see `read_target`.

    Raises:
        ValueError: there is not one target for each image.
    """
    count = len(images.sizes)
    if targets is None or len(targets) != count:
        raise ValueError(
            f"training needs a target for each of the {count} images, got {'none' if targets is None else len(targets)}"
            "; call model.eval() to detect"
        )
    return [read_target(target, index, images, num_classes, masks) for index, target in enumerate(targets)]


def read_target(target: Mapping[str, Tensor], index: int, images: ImageBatch, num_classes: int, masks: bool) -> Truth:
    """Check what is told of one image's objects and bring it to the batch's device, dtype and padded size.

    Args:
        target: "boxes" [G, 4], corners in pixels of the image; "labels" [G], from 0; "masks" [G, H, W], of the size of
            the image, or of the padded batch.
        index: of the image.
        images: the batch.
        num_classes: that there are.
        masks: whether they are needed.

    Raises:
        ValueError: something is missing, or of another shape, or no box or class.
    """
    where = f"target {index}"
    wanted = ("boxes", "labels", "masks") if masks else ("boxes", "labels")
    if missing := [key for key in wanted if key not in target]:
        raise ValueError(f"{where}: expected {', '.join(wanted)}, got no {' and no '.join(missing)}")
    boxes, labels = target["boxes"], target["labels"]
    if boxes.dim() != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
        raise ValueError(
            f"{where}: expected boxes [G, 4] and labels [G], got {list(boxes.shape)} and {list(labels.shape)}; an "
            "image without objects has boxes [0, 4]"
        )
    if not (boxes.isfinite().all() and (boxes[:, 2:] > boxes[:, :2]).all()):
        raise ValueError(
            f"{where}: expected corners x1 < x2 and y1 < y2 of every box, in pixels; convert x, y, width, height, and "
            "drop boxes without area"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"{where}: expected labels from 0 to {num_classes - 1}, got {int(labels.min())} to {int(labels.max())}"
        )
    boxes = boxes.to(images.image.device, torch.promote_types(images.image.dtype, torch.float32))
    labels = labels.to(images.image.device).long()
    return Truth(boxes, labels, _padded_masks(target["masks"], len(boxes), index, images) if masks else None)


def _padded_masks(masks: Tensor, count: int, index: int, images: ImageBatch) -> Tensor:
    height, width = images.image.shape[2:]
    sizes = (images.size(index), (height, width))
    if masks.dim() != 3 or len(masks) != count or tuple(masks.shape[1:]) not in sizes:
        raise ValueError(
            f"target {index}: expected masks [{count}, {sizes[0][0]}, {sizes[0][1]}], one for each box at the size of "
            f"the image, got {list(masks.shape)}"
        )
    return pad_to(masks, height, width).to(images.image.device)
