"""From the outputs of a deployed model to what they say of one picture. The C++ runner says the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from internimage.tasks.detection.masks import paste_masks
from internimage.tasks.layers.conv_norm import resize
from internimage.tasks.resizing import Size

_NAMED = 5  # classes of a picture in text
_MOST_NUMBERED = 255  # objects in a map of 8 bits


@dataclass(frozen=True)
class Reading:
    """What the outputs say.

    Attributes:
        content: for JSON.
        rows: the same as text, for people.
        labels: uint8 [H, W] of the picture: the class of each pixel; of a detector that draws masks, the number (from
            1) of the surest object there, 0 for none; None: the model says nothing of pixels.
    """

    content: dict[str, Any]
    rows: list[str]
    labels: NDArray[np.uint8] | None = None


def read_outputs(
    outputs: Mapping[str, Tensor], inputs: Sequence[Tensor], task: Mapping[str, Any], size: Size, *, threshold: float
) -> Reading:
    """What a model says of a picture.

    Args:
        outputs: of an artifact for this picture alone, by name.
        inputs: that it was given.
        task: of its manifest.
        size: height and width of the picture.
        threshold: least score of objects.
    """
    return _READERS[task["kind"]](outputs, inputs, task.get("classes", []), size, threshold)


def _classification(
    outputs: Mapping[str, Tensor], inputs: Sequence[Tensor], names: Sequence[str], size: Size, threshold: float
) -> Reading:
    probabilities = outputs["logits"][0].softmax(0)
    best = probabilities.topk(min(_NAMED, len(names)))
    labels, values = best.indices.tolist(), best.values.tolist()
    chosen = [names[label] for label in labels]
    rows = [f"  {value:7.2%}  {name}" for value, name in zip(values, chosen, strict=True)]
    return Reading({"labels": labels, "names": chosen, "probabilities": values}, rows)


def _features(
    outputs: Mapping[str, Tensor], inputs: Sequence[Tensor], names: Sequence[str], size: Size, threshold: float
) -> Reading:
    maps = [
        {"name": name, "shape": list(x.shape), "mean": float(x.mean()), "deviation": float(x.std(correction=0))}
        for name, x in outputs.items()
    ]
    rows = [f"  {x['name']}: {x['shape']}, mean {x['mean']:.4g}, deviation {x['deviation']:.4g}" for x in maps]
    return Reading({"maps": maps}, rows)


def _segmentation(
    outputs: Mapping[str, Tensor], inputs: Sequence[Tensor], names: Sequence[str], size: Size, threshold: float
) -> Reading:
    labels: NDArray[np.uint8] = resize(outputs["scores"], size).argmax(1)[0].to(torch.uint8).numpy()
    shares = np.bincount(labels.reshape(-1), minlength=len(names)) / labels.size
    order = [int(label) for label in np.argsort(-shares, kind="stable") if shares[label] > 0]
    chosen, values = [names[label] for label in order], [float(shares[label]) for label in order]
    rows = [f"  {value:7.2%}  {name}" for value, name in zip(values[:_NAMED], chosen[:_NAMED], strict=True)]
    more = [f"           and {len(order) - _NAMED} more"] if len(order) > _NAMED else []
    return Reading({"labels": order, "names": chosen, "shares": values}, rows + more, labels)


def _detection(
    outputs: Mapping[str, Tensor], inputs: Sequence[Tensor], names: Sequence[str], size: Size, threshold: float
) -> Reading:
    scores = outputs["scores"][0, : int(outputs["counts"][0])]
    count = int((scores >= threshold).sum())  # they fall
    seen = inputs[1][0].tolist()
    scale = torch.tensor([size[1] / seen[1], size[0] / seen[0]] * 2)
    limits = torch.tensor([size[1], size[0]] * 2)
    boxes = (outputs["boxes"][0, :count] * scale).clamp(min=0).minimum(limits)
    labels = outputs["labels"][0, :count].tolist()
    objects: list[dict[str, Any]] = [
        {"label": label, "name": names[label], "score": score, "box": box}
        for label, score, box in zip(labels, scores[:count].tolist(), boxes.tolist(), strict=True)
    ]
    numbers = None
    if "masks" in outputs:
        numbers = np.zeros(size, np.uint8)
        for i in range(count):
            mask = paste_masks(outputs["masks"][0, i : i + 1], boxes[i : i + 1], size)[0].numpy()
            objects[i]["mask_pixels"] = int(mask.sum())
            if i < _MOST_NUMBERED:
                numbers[mask & (numbers == 0)] = i + 1
    rows = [
        f"  {entry['score']:7.2%}  {entry['name']}  {' '.join(f'{side:.1f}' for side in entry['box'])}"
        for entry in objects
    ]
    return Reading({"height": size[0], "width": size[1], "objects": objects}, rows or ["  nothing"], numbers)


_READERS: dict[str, Callable[..., Reading]] = {
    "classification": _classification,
    "features": _features,
    "segmentation": _segmentation,
    "detection": _detection,
}
