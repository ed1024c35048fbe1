"""The layouts in which InternImage's weights are stored, brought to our names of parameters.

A file is read in two steps: `unwrap` takes the state dict out of what was saved around it, `to_our_names` takes the
backbone and classifier out of the state dict. Which layout it is shows in the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from internimage.renames import INTERNIMAGE, Renames
from internimage.weight_files import WeightFileError

State = dict[str, Tensor]

_CONTAINERS = ("state_dict", "model", "module")  # detectors and segmentors; classification; DeepSpeed
_EMA_CONTAINERS = ("model_ema", "state_dict_ema")
_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
_OURS = ("stem.", "stages.", "assisting.", "lead.")
_OFFICIAL = ("patch_embed.", "levels.", "cb_modules.")
_CLASSIFIER_PARTS = ("conv_head.", "clip_projector.", "fc_norm.", "head.")
_TASK_PARTS = {
    "rpn_head.": "detector",
    "roi_head.": "detector",
    "bbox_head.": "detector",
    "decode_head.": "segmentor",
}


@dataclass(frozen=True)
class NamedState:
    """A state dict under our names, and what was told by the names that it had."""

    tensors: State
    origin: str  # what kind of file it is, in words
    left_out: tuple[str, ...] = ()  # keys of other parts than backbone and classifier


def unwrap(saved: Any, *, ema: bool, name: str) -> State:
    """The state dict in what a training or conversion script saved, without the prefixes of wrappers.

    Args:
        saved: what the file holds.
        ema: take the exponential moving average instead of the weights themselves.
        name: of the file, for the errors.

    Raises:
        WeightFileError: it holds no tensors, or no moving average.
    """
    if not isinstance(saved, Mapping):
        raise WeightFileError(f"{name} holds a {type(saved).__name__}, expected a mapping of names to tensors")
    containers = _EMA_CONTAINERS if ema else _CONTAINERS
    inside = next((saved[key] for key in containers if isinstance(saved.get(key), Mapping)), None)
    if ema and inside is None:
        raise WeightFileError(
            f"{name} holds no moving average ({' or '.join(_EMA_CONTAINERS)}), only {_outline(saved)}; load it without "
            "ema=True"
        )
    content = saved if inside is None else inside
    state = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not state:
        raise WeightFileError(f"{name} holds no weights, only {_outline(content)}")
    return _without_wrappers(state)


def to_our_names(state: Mapping[str, Tensor]) -> NamedState:
    """Backbone and classifier of a state dict in any known layout; keys of neither kind stay as they are."""
    state = dict(state)
    origin = "a classifier" if _any_starts(state, _CLASSIFIER_PARTS) else "a backbone"
    left_out: list[str] = []
    if _any_starts(state, "encoder.stem."):
        origin, state = "a pre-training run", _stripped(state, "encoder.")
    elif any("mask_token" in key for key in state):
        origin, state = "a file of M3I pretraining", _of_m3i(state)
    elif any(key.startswith(("student.", "teacher.")) for key in state):
        origin, state = "a student and its teacher", _stripped(state, "student.")
    elif any(key.startswith("backbone.") for key in state):
        origin = _kind_of_whole(state)
        left_out = [key for key in state if not key.startswith("backbone.")]
        state = _stripped(state, "backbone.")
    elif _any_starts(state, tuple(f"model.{part}" for part in _OFFICIAL)):
        origin = "a Hugging Face model"
        state = _renamed(_stripped(state, "model."), lambda key: key.replace("layer_scale", "gamma"))
    state = _without_wrappers(state)
    if not _any_starts(state, _OURS):
        renames = INTERNIMAGE.from_official(state)
        state = _renamed(state, lambda key: renames.get(key, key))
    return NamedState(state, origin, tuple(left_out))


def to_names_of_whole(state: Mapping[str, Tensor], renames: Renames) -> NamedState:
    """A whole detector's or segmentor's state dict, by its own table of names; keys of neither kind stay.

    What has no part "backbone." is no such model, and is taken for a backbone or a classifier.
    """
    if not _any_starts(state, "backbone."):
        return to_our_names(state)
    names = renames.from_official(state)
    return NamedState({names.get(key, key): tensor for key, tensor in state.items()}, _kind_of_whole(state))


def _kind_of_whole(state: Iterable[str]) -> str:
    return next((f"a {kind}" for part, kind in _TASK_PARTS.items() if _any_starts(state, part)), "a larger model")


def _of_m3i(state: State) -> State:
    """Weights of M3I pretraining: the image encoder, and the classifier of its CLIP branch."""
    kept = {
        key: tensor
        for key, tensor in state.items()
        if ("dcnv3" in key or "clip_projector" in key) and "mm_dcnv3" not in key
    }
    kept = _renamed(kept, lambda key: key.replace("dcnv3.", ""))
    # The official loader writes fc_norm.weight, which its model (fc_norm.0.weight) doesn't have, so there the norm
    # silently keeps its initial values.
    for ours, theirs in (("fc_norm.0", "clip.classifier_ln"), ("head", "clip.classifier")):
        for part in ("weight", "bias"):
            if f"{theirs}.{part}" in state:
                kept[f"{ours}.{part}"] = state[f"{theirs}.{part}"]
    return kept


def _without_wrappers(state: State) -> State:
    # The EMA hook of the detection framework keeps the other copy of the weights under ema_*; the plain keys are the
    # averaged ones.
    state = {key: tensor for key, tensor in state.items() if not key.startswith("ema_")}
    while state and (prefix := next((p for p in _WRAPPERS if all(key.startswith(p) for key in state)), "")):
        state = _stripped(state, prefix)
    return state


def _stripped(state: State, prefix: str) -> State:
    """The entries under `prefix`, without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def _renamed(state: State, rename: Callable[[str], str]) -> State:
    return {rename(key): tensor for key, tensor in state.items()}


def _any_starts(keys: Iterable[str], prefix: str | tuple[str, ...]) -> bool:
    return any(key.startswith(prefix) for key in keys)


def _outline(content: Mapping[Any, Any]) -> str:
    entries = [f"{key} ({type(value).__name__})" for key, value in list(content.items())[:6]]
    return ", ".join(entries) + (", ..." if len(content) > 6 else "") if entries else "nothing"
