"""Detectors and segmentors before training: their first weights, what of them is trained, and how fast."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal, Protocol, cast

from torch import nn
from torch.optim import AdamW

from internimage import load_checkpoint
from internimage.backbone import InternImage, InternImageFeatures
from internimage.checkpoint import Classifier, read_state_dict
from internimage.tasks.training.batch_norm import synchronise_batch_norms
from internimage.tasks.training.layer_decay import dense_layer_decay_scale
from internimage.tasks.training.optimizer import build_adamw
from internimage.tasks.training.recipe import Recipe
from internimage.tasks.training.run_directory import weights_file
from internimage.variants import VARIANTS


class DenseModel(Protocol):
    """Heads on a backbone."""

    backbone: nn.Module


def prepare_to_train(
    model: DenseModel,
    recipe: Recipe,
    *,
    init_head: Literal["none", "fresh"] | Classifier,
    classifiers: Collection[str],
) -> None:
    """Give a model its first weights, freeze stages of its backbone, and so on, as a recipe says.

    Args:
        model: freshly initialised; its backbone is an `InternImageFeatures` or a `CompositeInternImage`.
        recipe: with the weights in `init`.
        init_head: what those give the heads: "none", nothing; "fresh", all but the classifiers; else all of them, see
            `load_checkpoint`.
        classifiers: parts of the names of the classifiers' weights, official and ours.

    Raises:
        ValueError, OSError: see `load_checkpoint`.
    """
    backbone = cast(InternImageFeatures, model.backbone)
    whole = cast(nn.Module, model)
    single = [module for module in backbone.modules() if isinstance(module, InternImage)]  # two of a composite one
    if recipe.init is not None:
        source = weights_file(Path(recipe.init)) if Path(recipe.init).exists() else recipe.init
        if init_head == "none":
            load_checkpoint(backbone, source)
        elif init_head == "fresh":
            state = read_state_dict(source)
            rest = {name: weight for name, weight in state.items() if not any(part in name for part in classifiers)}
            load_checkpoint(whole, rest, strict=False)
        else:
            load_checkpoint(whole, source, classifier=init_head)
    backbone.set_grad_checkpointing(recipe.grad_checkpointing)
    for stage in recipe.frozen_stages:
        for each in single:
            for part in [each.stages[stage]] + ([each.stem] if stage == 0 else []):
                part.requires_grad_(False)
    if recipe.sync_batch_norm:
        synchronise_batch_norms(whole)


def dense_adamw(
    model: nn.Module,
    recipe: Recipe,
    variant: str,
    *,
    lowest: Collection[str] = (),
    undecayed: Collection[str] = (),
    factors: Mapping[str, float] | None = None,
) -> AdamW:
    """AdamW over a recipe's groups.

    Args:
        model: whose parameters.
        recipe: with learning rate, weight and layer decay.
        variant: of the backbone.
        lowest: see `dense_layer_decay_scale`.
        undecayed: see `build_adamw`.
        factors: of the learning rates of parameters, by parts of their names.
    """
    decay = 1.0 if recipe.layer_decay is None else recipe.layer_decay
    of_layer = dense_layer_decay_scale(VARIANTS[variant].depths, decay, lowest)

    def lr_scale(name: str) -> float:
        further = [factor for part, factor in (factors or {}).items() if part in name]
        return of_layer(name) * math.prod(further)

    peak = recipe.learning_rate * recipe.lr_factor
    return build_adamw(model, peak, recipe.weight_decay, beta2=recipe.beta2, lr_scale=lr_scale, undecayed=undecayed)
