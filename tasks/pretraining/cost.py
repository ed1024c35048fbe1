"""What a step of pre-training costs one device: operations and memory, from a step whose tensors hold no values.

The step is the model's own, forward and backward, on fake tensors: every operation is seen with its shapes and types,
and every tensor with the moments of its birth and death. docs/pretraining.md has the formulas.
"""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from internimage.backbone import Block
from internimage.tasks.pretraining.mixing import BLOCK
from internimage.tasks.pretraining.model import PretrainingModel
from internimage.tasks.pretraining.recipes import PretrainingRecipe
from internimage.tasks.pretraining.train import build_model
from internimage.tasks.training.distributed import DTYPES, Processes

_STEP = 1.01  # by which a new maximum must be larger: to see whether it is one takes time
_FLOAT_BYTES = 4  # parameters, gradients and the optimiser's averages are float32


@dataclass(frozen=True)
class StepCost:
    """Of one device that computes a part of a step alone.

    Attributes:
        images: of the part.
        parameters: that are trained, by the names of the model's parts.
        momentum_parameters: of the momentum copy.
        largest_block: parameters of the largest block of the encoder, the unit in which FSDP gathers them.
        outside_blocks: parameters of the model outside blocks, which FSDP gathers together.
        forward_flops: of the forward pass, by the names of the model's parts.
        flops: of forward and backward pass with what is computed again.
        activation_bytes: the most that tensors take beside parameters and gradients.
    """

    images: int
    parameters: Mapping[str, int]
    momentum_parameters: int
    largest_block: int
    outside_blocks: int
    forward_flops: Mapping[str, int]
    flops: int
    activation_bytes: int


@dataclass(frozen=True)
class Memory:
    """Bytes on each device, by what they are for; those that `shards` processes share are each one's share."""

    parameters: float
    gradients: float
    optimiser: float
    momentum: float
    gathered: float  # by FSDP: the parameters that are in use, with their gradients
    activations: float
    negatives: float  # targets of other processes, and their scores

    @property
    def total(self) -> float:
        """Of all parts, as if each were largest at the same time."""
        return float(sum(vars(self).values()))


def memory(cost: StepCost, recipe: PretrainingRecipe, gpus: int) -> Memory:
    """What a device holds when `gpus` of them train by the recipe."""
    trained = sum(cost.parameters.values())
    shards = gpus if recipe.strategy == "fsdp" else 1
    item = DTYPES[recipe.precision].itemsize
    gathered = 0
    if recipe.strategy == "fsdp":  # the block at work, the one fetched ahead, and all outside blocks; the gradients too
        gathered = 2 * item * (2 * cost.largest_block + cost.outside_blocks)
    negatives = 0
    if gpus > 1 and recipe.text_weight and recipe.text_likelihood == "boltzmann":
        others = cost.images * (gpus - 1)
        # Texts and images of the others, in both directions a row of scores and its gradient for each own one.
        negatives = 2 * _FLOAT_BYTES * others * (recipe.text_channels + 2 * cost.images)
    return Memory(
        parameters=_FLOAT_BYTES * trained / shards,
        gradients=_FLOAT_BYTES * trained / shards,
        optimiser=2 * _FLOAT_BYTES * trained / shards,
        momentum=_FLOAT_BYTES * cost.momentum_parameters / shards,
        gathered=gathered,
        activations=cost.activation_bytes,
        negatives=negatives,
    )


def step_cost(recipe: PretrainingRecipe, images: int, *, categories: int = 1000, like_cuda: bool = True) -> StepCost:
    """Count a step of a part of so many images, on one device.

    Args:
        recipe: what model, which targets, checkpoints or not, in which precision.
        images: of the part, a multiple of those in a mixture.
        categories: where they are a target.
        like_cuda: under autocast, layer norms are computed in float32, as on CUDA.
    """
    with torch.device("meta"):
        model = build_model(recipe, categories if recipe.category_weight else 0, recipe.vocabulary + 1, _alone())
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        model.train()
        batch = fake_batch(recipe, images)
        half = recipe.precision != "float32"
        autocast = partial(torch.autocast, "cpu", DTYPES[recipe.precision], enabled=half)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm) and half and like_cuda:
                module.register_forward_pre_hook(_in_float32)
        with autocast(), torch.no_grad(), _counter() as counter:
            forward_flops = _flops_by_part(_parts(model), counter)
            model(batch)
        forward_flops = dict(forward_flops)  # the step below goes on counting
        for weight in model.parameters():
            if weight.requires_grad:  # gradients are counted with the parameters: let them go at once
                weight.register_post_accumulate_grad_hook(_forget)  # type: ignore[no-untyped-call]
        with _counter() as whole, LiveBytes() as live:
            with autocast():
                loss = model(batch)["loss"]
            loss.backward()
    return StepCost(
        images=images,
        parameters={
            name: sum(weight.numel() for weight in part.parameters() if weight.requires_grad)
            for name, part in _parts(model).items()
            if name != "momentum copy"
        },
        momentum_parameters=sum(
            weight.numel() for weight in _parts(model).get("momentum copy", nn.Module()).parameters()
        ),
        largest_block=max(_count(block) for block in model.modules() if isinstance(block, Block)),
        outside_blocks=_count(model) - sum(_count(block) for block in model.modules() if isinstance(block, Block)),
        forward_flops=forward_flops,
        flops=whole.get_total_flops(),
        activation_bytes=live.most,
    )


def fake_batch(recipe: PretrainingRecipe, images: int) -> dict[str, Tensor]:
    """A batch of the recipe's shapes, of zeros."""
    size, rows = recipe.size, recipe.size // BLOCK
    cells = recipe.dense_cells or 4 * rows**2
    batch = {
        "image": torch.zeros(images, 3, size, size),
        "blocks": torch.arange(rows**2).repeat(images // recipe.mixed_images, 1),
        "relative": torch.tensor([0.0, 1.0]).repeat(images, 2, 1),
        "cells": torch.arange(cells).repeat(images, 1),
        "label": torch.zeros(images, dtype=torch.long),
        "text_key": torch.arange(images),
        "tokens": torch.ones(images, recipe.text_length, dtype=torch.long),
        "embedding": torch.zeros(images, recipe.text_channels),
    }
    if recipe.target_view == "other":
        batch["target_image"] = torch.zeros(images, 3, size, size)
    return batch


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """How many bytes the tensors take that were made under it.

    Attributes:
        now: of those that live.
        most: so far, to one in a hundred.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known: set[int] = set()

    def __enter__(self) -> LiveBytes:
        gc.collect()
        gc.freeze()  # what is there stays: later collections then need not look at it
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        gc.unfreeze()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {_storage(leaf)._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._note(_storage(leaf), before)
        return out

    def _note(self, storage: torch.UntypedStorage, before: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or key in before:  # a view, or changed in place
            return
        self._known.add(key)
        self.now += size
        weakref.finalize(storage, self._free, key, size)
        if self.now > _STEP * self.most:
            gc.collect()  # fake tensors die later than real ones where references go in circles
            self.most = max(self.most, self.now)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def _counter() -> FlopCounterMode:
    return FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward_flops}
    )


def _convolution_backward_flops(grad: Any, x: Any, weight: Any, *arguments: Any, out_shape: Any = None) -> int:
    """As many as forward for each of the two gradients; torch's own formula forgets the groups."""
    wanted = arguments[-1]
    taps = math.prod(weight[1:])  # transposed convolutions don't occur
    return 2 * int(math.prod(grad)) * int(taps) * (int(wanted[0]) + int(wanted[1]))


def _parts(model: PretrainingModel) -> dict[str, nn.Module]:
    """The parts of the model by the names that people know them by."""
    parts: dict[str, nn.Module] = {"encoder": model.encoder}
    if model.dense is not None:
        parts |= {"momentum copy": model.dense.momentum, "dense decoder": model.dense.decoder}
    if model.text is not None and model.text.encoder is not None:
        parts["text encoder"] = model.text.encoder
    return parts


def _flops_by_part(parts: Mapping[str, nn.Module], counter: FlopCounterMode) -> dict[str, int]:
    """What is counted while a part or any module in it runs, filled in as they run."""
    found = dict.fromkeys(parts, 0)
    for name, part in parts.items():
        starts: list[int] = []  # of the calls that are going on; the model calls some parts module by module

        def enter(module: nn.Module, inputs: Any, starts: list[int] = starts) -> None:
            starts.append(counter.get_total_flops())

        def leave(module: nn.Module, inputs: Any, output: Any, starts: list[int] = starts, name: str = name) -> None:
            start = starts.pop()
            if not starts:
                found[name] += counter.get_total_flops() - start

        for module in part.modules():
            module.register_forward_pre_hook(enter)
            module.register_forward_hook(leave)
    return found


def _count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _in_float32(norm: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.float() for x in inputs)


def _forget(weight: Tensor) -> None:
    weight.grad = None


def _alone() -> Processes:
    return Processes(torch.device("cpu"))
