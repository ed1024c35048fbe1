"""A larger model with its backbones prepared for inference."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from internimage.backbone import InternImage
from internimage.composite import CompositeInternImage
from internimage.inference import prepare_for_inference

_Backbone = InternImage | CompositeInternImage


def with_prepared_backbones(model: nn.Module) -> nn.Module:
    """A copy of a model with what `prepare_for_inference` makes of its backbones; the model itself if there is nothing.

    It can for float32 on the CPU.
    """
    backbones = [backbone for backbone in _outermost(model) if _can_be_prepared(backbone)]
    if not backbones:
        return model
    # deepcopy takes what its memo holds for the copy.
    return copy.deepcopy(model, {id(backbone): prepare_for_inference(backbone) for backbone in backbones})


def _outermost(model: nn.Module) -> Iterator[Any]:
    if isinstance(model, _Backbone):
        yield model
        return
    for child in model.children():
        yield from _outermost(child)


def _can_be_prepared(backbone: nn.Module) -> bool:
    return all(x.dtype == torch.float32 and x.device.type == "cpu" for x in backbone.parameters())
