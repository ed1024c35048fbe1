"""Why a file's weights don't fit a model: what differs, and what that usually comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from internimage.layouts import NamedState
from internimage.variants import VARIANTS

_SHOWN = 4
_COMPOSITE = (
    "assisting.",
    "lead.",
    "cb_modules.",
)  # ours, and the official name, which a single backbone leaves as it is


@dataclass(frozen=True)
class Mismatch:
    """How the names and shapes of a file differ from those of a model."""

    missing: tuple[str, ...]  # in the model only
    unexpected: tuple[str, ...]  # in the file only
    misshapen: tuple[str, ...]  # in both

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)


def compare(file: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> Mismatch:
    """Compare names and shapes."""
    return Mismatch(
        missing=tuple(key for key in model if key not in file),
        unexpected=tuple(key for key in file if key not in model),
        misshapen=tuple(key for key in model if key in file and file[key].shape != model[key].shape),
    )


def explain(mismatch: Mismatch, file: NamedState, model: Mapping[str, Tensor], name: str) -> str:
    """The message of the error: counts, the first names of each kind, and the likely cause."""
    shapes = [
        f"{key} (file {list(file.tensors[key].shape)}, model {list(model[key].shape)})" for key in mismatch.misshapen
    ]
    lines = [f"{name} ({file.origin}) does not fit the model:"]
    for title, entries in (
        ("missing from the file", mismatch.missing),
        ("not in the model", mismatch.unexpected),
        ("of another shape", shapes),
    ):
        if entries:
            lines.append(f"  {len(entries)} {title}: {', '.join(entries[:_SHOWN])}{', ...' * (len(entries) > _SHOWN)}")
    if cause := _cause(mismatch, file, model):
        lines.append(f"Likely cause: {cause}")
    return "\n".join(lines)


def _cause(mismatch: Mismatch, file: NamedState, model: Mapping[str, Tensor]) -> str | None:
    """The first that applies, from whole models down to single options."""
    tensors = file.tensors
    if any(key.startswith("backbone.") for key in model):
        return _cause_in_whole(mismatch, file, model)
    if _starts(tensors, _COMPOSITE) and not _starts(model, _COMPOSITE):
        return "the file holds the composite backbone CB-InternImage; load it into a CompositeInternImage"
    if _starts(model, _COMPOSITE) and not _starts(tensors, _COMPOSITE):
        return "the model is the composite backbone CB-InternImage, the file holds a single one"
    if not set(tensors) & set(model):
        return "the file is of another architecture: no name in it is one of InternImage's"
    return (
        _cause_in_variant(tensors, model)
        or _cause_in_head(mismatch, file, model)
        or _cause_in_options(mismatch, tensors, model)
    )


def _cause_in_whole(mismatch: Mismatch, file: NamedState, model: Mapping[str, Tensor]) -> str | None:
    """The first cause that applies to a model of a backbone and heads."""
    if not _starts(file.tensors, ("backbone.",)):
        return f"the file holds {file.origin} alone; load it into the backbone: load_checkpoint(model.backbone, ...)"
    tensors, wanted = (
        {key.removeprefix("backbone."): tensor for key, tensor in state.items() if key.startswith("backbone.")}
        for state in (file.tensors, model)
    )
    if _starts(tensors, _COMPOSITE) != _starts(wanted, _COMPOSITE):
        return "one of file and model has the composite backbone CB-InternImage, the other a single one"
    if cause := _cause_in_variant(tensors, wanted):
        return cause
    if any(not key.startswith("backbone.") for key in (*mismatch.missing, *mismatch.unexpected)):
        return "file and model have different heads, or layers of one of them; the names above tell which"
    return (
        _cause_in_classes(mismatch, file, model)
        or _cause_in_objects(mismatch, file.tensors, model)
        or _cause_in_options(mismatch, file.tensors, model)
    )


def _cause_in_objects(mismatch: Mismatch, file: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> str | None:
    """A detector's classes."""
    for key, background in (("roi_heads.box_heads.0.classifier.weight", 1), ("label_embed", 0)):
        if key in mismatch.misshapen:
            classes, wanted = (len(state[key]) - background for state in (file, model))
            return f"the file has {classes} classes, the model {wanted}; create the model with num_classes={classes}"
    return None


def _cause_in_variant(file: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> str | None:
    if _widths_and_depths(file) == _widths_and_depths(model):
        return None
    return f"another variant: the file looks like {_variant(file)}, the model like {_variant(model)}"


def _cause_in_head(mismatch: Mismatch, file: NamedState, model: Mapping[str, Tensor]) -> str | None:
    has, wants = _head(file.tensors), _head(model)
    if has == "no head" and wants != has:
        return f"{file.origin} has no classification head; create the model with head=None or features_only=True"
    if has != wants:
        return f"another head: the file has {has}, the model {wants}"
    if "head.classifier.weight" in mismatch.missing:
        return "the file has no classifier; pass classifier='fresh' for a new one, or num_classes=0 to the model"
    return _cause_in_classes(mismatch, file, model)


def _cause_in_classes(mismatch: Mismatch, file: NamedState, model: Mapping[str, Tensor]) -> str | None:
    if "head.classifier.weight" not in mismatch.misshapen:
        return None
    rows, wanted = (len(state["head.classifier.weight"]) for state in (file.tensors, model))
    mend = f"create the model with num_classes={rows}, or pass classifier='fresh' for a new classifier"
    if (rows, wanted) == (21841, 1000):
        mend += ", or classifier='22k-to-1k' to pick the ImageNet-1K classes"
    if (rows, wanted) == (150, 19):
        mend += ", or classifier='first' for the first 19, which are those of street scenes"
    return f"the file has {rows} classes, the model {wanted}; {mend}"


def _cause_in_options(mismatch: Mismatch, file: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> str | None:
    first = "stem.conv1.weight"
    if first in mismatch.misshapen:
        return (
            f"the file takes images of {file[first].shape[1]} channels, the model of {model[first].shape[1]} (in_chans)"
        )
    for part, option in (
        ("layer_scale", "layer_scale (detectors and segmentors have one in every variant but H and G)"),
        ("res_norm", "res_post_norm"),
        ("level2_norms", "level2_post_norm_block_ids"),
        ("center_scale", "center_feature_scale"),
        ("depthwise", "dw_kernel_size"),
        ("dcn.mask", "groups or remove_center"),
    ):
        if any(part in key for keys in (mismatch.missing, mismatch.unexpected, mismatch.misshapen) for key in keys):
            return f"file and model differ in the option {option}"
    if any(re.match(r"stages\.\d\.norm\.", key) for key in (*mismatch.missing, *mismatch.unexpected)):
        return "file and model differ in the option post_norm or center_feature_scale"
    if not mismatch.unexpected and not mismatch.misshapen:
        return "the file holds only a part of a model, or the stages that this one was cut to were others"
    return None


def _widths_and_depths(state: Mapping[str, Tensor]) -> tuple[int, tuple[int, ...]]:
    """Width of the first stage and blocks of each stage; 0 where there is none."""
    width = state["stem.conv2.weight"].shape[0] if "stem.conv2.weight" in state else 0
    blocks = {
        (int(m[1]), int(m[2])) for key in state if (m := re.match(r"(?:lead\.)?stages\.(\d+)\.blocks\.(\d+)\.", key))
    }
    return width, tuple(sum(1 for stage, _ in blocks if stage == i) for i in range(4))


def _variant(state: Mapping[str, Tensor]) -> str:
    width, depths = _widths_and_depths(state)
    names = [name for name, row in VARIANTS.items() if (row.channels, row.depths) == (width, depths)]
    return f"{names[0] if names else 'no variant with a name'} (channels={width}, depths={depths})"


def _head(state: Mapping[str, Tensor]) -> str:
    for part, name in (
        ("head.metadata.", "the head 'metadata'"),
        ("head.attention.", "the head 'clip'"),
        ("head.conv.", "the head 'conv'"),
    ):
        if _starts(state, (part,)):
            return name
    return "no head"


def _starts(keys: Mapping[str, Tensor] | Sequence[str], prefixes: tuple[str, ...]) -> bool:
    return any(key.startswith(prefixes) for key in keys)
