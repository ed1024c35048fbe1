"""Building a model by its name with the weights that are wanted, the same for every task."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import nn

from internimage.checkpoint import Classifier, load_checkpoint

Source = str | PathLike[str]


class Classifying(Protocol):
    """A model whose classifier can be replaced."""

    @property
    def num_classes(self) -> int:
        """Of the classifier."""

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a freshly initialised one."""

    def to(self, device: torch.device) -> Any:
        """Move it."""


Model = TypeVar("Model", bound=Classifying)


def choose_source(
    function: str, name: str, *, pretrained: bool, checkpoint: Source | None, released: str | None
) -> Source | None:
    """Where a model's weights come from; None: nowhere.

    Args:
        function: that was called, for errors.
        name: of the model.
        pretrained: the released weights are wanted.
        checkpoint: these are wanted.
        released: name of the released weights, if there are any.

    Raises:
        ValueError: both are wanted, or released weights that there are none of.
    """
    if pretrained and checkpoint is not None:
        raise ValueError(f"{function}: give either pretrained=True or checkpoint, not both")
    if pretrained and released is None:
        raise ValueError(f"{function}: no weights of {name} were released; leave pretrained=True away")
    return released if pretrained else checkpoint


def build_from(
    source: Source | None,
    build: Callable[[int], Model],
    wanted: int,
    *,
    of_file: int,
    classifier: Classifier = "same",
) -> Model:
    """A model with the weights of a file, or a freshly initialised one.

    Args:
        source: what `load_checkpoint` reads; None: nothing.
        build: number of classes -> model.
        wanted: classes of the result.
        of_file: classes to load the file with; where they are not the wanted ones, a fresh classifier follows.
        classifier: see `load_checkpoint`.
    """
    if source is None:
        return build(wanted)
    device = torch.get_default_device()
    with torch.device("meta"):  # no need to draw numbers that the file replaces
        model = build(of_file)
    load_checkpoint(cast(nn.Module, model), source, classifier=classifier)
    model.to(device)
    if of_file != wanted:
        model.reset_classifier(wanted)
    return model
