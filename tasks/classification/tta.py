"""Test-time augmentation: one prediction from several views of an image; and ImageNet-22K models as 1K ones."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from internimage import imagenet


@torch.no_grad()
def predict_views(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    size_multiple: int = 32,
) -> Tensor:
    """Class probabilities, averaged over views of the images.

    For a 22K model on 1K classes, pass `lambda images: to_1k(model(images))`.

    Args:
        model: images [N, 3, H, W] -> logits [N, C], in evaluation mode.
        images: [N, 3, H, W], normalised as the model takes them.
        scales: of the views, relative to the images.
        flip: take every view also mirrored left to right.
        size_multiple: height and width of a scaled view are rounded to the nearest multiple of this; the heads of H
            and G need 32. At scale 1 the images stay as they are.

    Returns:
        float32 [N, C]. No entry is 0, so that the logarithm, which `ClassificationMetrics` takes, is finite.

    Raises:
        ValueError: images of another rank, no scale or one that is not a positive number, or `size_multiple` below 1.
    """
    if images.ndim != 4:
        raise ValueError(f"predict_views: expected images [N, 3, H, W], got shape {list(images.shape)}")
    if not scales or not all(math.isfinite(scale) and scale > 0 for scale in scales):
        raise ValueError(f"predict_views: scales must be positive numbers, at least one, got {list(scales)}")
    if size_multiple < 1:
        raise ValueError(f"predict_views: size_multiple must be at least 1, got {size_multiple}")
    probabilities = [model(view).float().softmax(-1) for view in _views(images, scales, flip, size_multiple)]
    mean = torch.stack(probabilities).mean(0)
    return mean.clamp(min=torch.finfo(mean.dtype).tiny)


def _views(images: Tensor, scales: Sequence[float], flip: bool, multiple: int) -> Iterator[Tensor]:
    for scale in scales:
        view = images
        if scale != 1:
            # Normalising and resizing commute: the weights of a resized pixel add up to 1.
            size = [max(1, int(scale * side / multiple + 0.5)) * multiple for side in images.shape[2:]]
            view = F.interpolate(images, size, mode="bicubic", antialias=True)
        yield view
        if flip:
            yield view.flip(-1)


def to_1k(logits_22k: Tensor) -> Tensor:
    """Logits of the ImageNet-1K classes out of those of ImageNet-22K, through `imagenet.map_22k_to_1k`.

    22K lacks the teddy bear, whose logit is that of the teapot: a picture of either counts as a teapot.

    Shapes: [..., 21841] -> [..., 1000].

    Raises:
        ValueError: another number of classes.
    """
    classes = len(imagenet.wordnet_ids(21841))
    if logits_22k.ndim < 1 or logits_22k.shape[-1] != classes:
        raise ValueError(f"to_1k: expected logits [..., {classes}] of ImageNet-22K, got {list(logits_22k.shape)}")
    return logits_22k[..., torch.tensor(imagenet.map_22k_to_1k(), device=logits_22k.device)]
