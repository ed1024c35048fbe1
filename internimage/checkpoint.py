"""Load the weights of every release of InternImage into a model, and save a model in any of their layouts."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import safetensors.torch
import torch
from torch import Tensor, nn

from internimage._version import __version__
from internimage.backbone import HEADS, InternImage
from internimage.hub import HUGGING_FACE_FILES, fetch
from internimage.imagenet import map_22k_to_1k
from internimage.layers import DCNv3, LayerScale
from internimage.layouts import NamedState, State, to_names_of_whole, to_our_names, unwrap
from internimage.mismatch import compare, explain
from internimage.released import ReleasedCheckpoint
from internimage.renames import INTERNIMAGE, Renames
from internimage.weight_files import WeightFileError, read, read_shards, written_whole

Source = str | os.PathLike[str] | ReleasedCheckpoint | Mapping[str, Any]
Classifier = Literal["same", "first", "22k-to-1k", "fresh"]
Layout = Literal["internimage", "official", "huggingface"]

_DEEPSPEED_FILE = "mp_rank_00_model_states.pt"
_FRESH_FACTOR = 0.001  # of the official fine-tuning, for a classifier that replaces the file's
_CLASSIFIERS = ("head.classifier.", "auxiliary_head.classifier.")


class CheckpointError(ValueError):
    """A file's weights don't fit the model; the message says how they differ and what that usually comes from."""


@dataclass(frozen=True)
class LoadReport:
    """What `load_checkpoint` did.

    Attributes:
        origin: what kind of file it was, in words.
        missing: entries of the model that the file lacks and that keep their values.
        unexpected: entries of the file that the model lacks.
        notes: what was changed on the way, in words.
    """

    origin: str
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def load_checkpoint(
    model: nn.Module, source: Source, *, strict: bool = True, ema: bool = False, classifier: Classifier = "same"
) -> LoadReport:
    """Load weights from a file of any official layout or of ours.

    Official classification, detection and segmentation files, Hugging Face repositories and DeepSpeed folders are told
    apart by their keys. Detection and segmentation files load whole into a model that has a table of names for them
    (`internimage.renames`), and into a backbone with their backbone. What a model was built without is not asked for: a
    model without a head, an auxiliary head, mask heads or classes leaves that part of the file. Where the model has
    layer scales and the file has none (the backbones of the T detectors start from such a file), they become 1, which
    is the same function. For a model built with `remove_center` the centre taps of a file that has them are cut. Values
    are converted to the model's dtype and device; a model on the meta device gets its tensors from the file, on the
    CPU. When anything is wrong the model is left as it was.

    Args:
        model: an `InternImage`, a `CompositeInternImage`, or a model of a task.
        source: whatever `internimage.hub.fetch` takes (file, folder, address, "hf://" repository, name of a released
            checkpoint), or a mapping that holds a state dict.
        strict: every entry of the model must be in the file, and the other way round. Shapes must agree in any case.
        ema: load the moving average that training saved beside the weights.
        classifier: "same": the file's. "first": of the file's rows the first, as many as the model has classes; the
            official UperNet and SegFormer files of street scenes have 150 rows for 19 classes. "22k-to-1k": of the
            file's 21841 rows those of the ImageNet-1K classes (see `internimage.imagenet.map_22k_to_1k`). "fresh": keep
            the model's own, times 0.001, as the official fine-tuning does.

    Raises:
        CheckpointError: names or shapes don't fit, a value is NaN or infinite (in the model's dtype), or `classifier`
            can't be had.
        WeightFileError: the file can't be read or holds no weights.
        FileNotFoundError, DownloadError: see `internimage.hub.fetch`.
    """
    if classifier not in (known := get_args(Classifier)):
        raise ValueError(f"load_checkpoint: classifier must be {', '.join(map(repr, known))}, got {classifier!r}")
    model = _unwrapped(model)
    target = model.state_dict()
    on_meta = any(tensor.is_meta for tensor in target.values())
    if classifier == "fresh" and (on_meta or "head.classifier.weight" not in target):
        raise ValueError(
            "load_checkpoint: classifier='fresh' keeps the model's own classifier, but this model "
            + ("is on the meta device and has no values" if on_meta else "has none")
        )
    name = _name(source)
    state = read_state_dict(source, ema=ema)
    renames = _renames_of(model)
    file = to_our_names(state) if renames is INTERNIMAGE else to_names_of_whole(state, renames)
    tensors = dict(file.tensors)
    notes = [
        *_leave_out_parts(tensors, target),
        *_cut_center_taps(tensors, model),
        *_add_layer_scales(tensors, target),
        *_take_classes(tensors, target, classifier, name),
    ]
    own = _own_classifier(tensors, target) if classifier == "fresh" else ()
    mismatch = compare(tensors, {key: value for key, value in target.items() if key not in own})
    if mismatch.misshapen or ((strict or on_meta) and mismatch.missing) or (strict and mismatch.unexpected):
        raise CheckpointError(explain(mismatch, NamedState(tensors, file.origin), target, name))
    tensors = {key: tensor for key, tensor in tensors.items() if key in target}
    _check_values(tensors, target, name)
    if on_meta:
        tensors = {key: _taken(tensor, target[key].dtype) for key, tensor in tensors.items()}
    model.load_state_dict(tensors, strict=False, assign=on_meta)
    for key in own:
        if key.startswith(_CLASSIFIERS):
            target[key].mul_(_FRESH_FACTOR)  # shares its memory with the model's parameter
    return LoadReport(file.origin, mismatch.missing, (*file.left_out, *mismatch.unexpected), tuple(notes))


@contextmanager
def mapped_weights() -> Iterator[None]:
    """Within, models that are created with a checkpoint keep its file mapped, and take no memory of their own for it.

    For models larger than half of the memory. The file must stay as it is for as long as the model lives.
    """
    token = _MAPPED.set(True)
    try:
        yield
    finally:
        _MAPPED.reset(token)


_MAPPED = ContextVar("_MAPPED", default=False)


def read_state_dict(source: Source, *, ema: bool = False) -> State:
    """Read the state dict of a file under the names that it has there, on the CPU, without the prefixes of wrappers.

    Args:
        source: see `load_checkpoint`.
        ema: read the moving average that training saved beside the weights.

    Raises:
        WeightFileError, FileNotFoundError, DownloadError: see `load_checkpoint`.
    """
    if isinstance(source, Mapping):
        return unwrap(source, ema=ema, name=_name(source))
    path = fetch(source)
    if path.is_dir():
        path = _weights_in(path)
    saved = read_shards(path) if path.suffix == ".json" else read(path)
    return unwrap(saved, ema=ema, name=_name(source))


def save_checkpoint(model: nn.Module, path: str | os.PathLike[str], *, layout: Layout = "internimage") -> Path:
    """Save a model's weights; the file appears whole or not at all.

    Args:
        model: an `InternImage`, a `CompositeInternImage`, or a model of a task.
        path: the file to write, or for "huggingface" the folder.
        layout: "internimage": safetensors under our names, with the model's arguments and the library's version as
            metadata. "official": `{"model": ...}` under the official names, as the classification files are, or
            `{"state_dict": ...}` for the models of other tasks, as theirs are.
            "huggingface": model.safetensors and config.json, as in the official repositories.

    Returns:
        `path`.

    Raises:
        ValueError: an unknown layout, a model on the meta device, or one that the layout can't express.
    """
    model = _unwrapped(model)
    path = Path(path)
    state = {key: _owned(tensor, key) for key, tensor in model.state_dict().items()}
    if layout == "internimage":
        save_state_dict(state, path, describe(model))
    elif layout == "official":
        names = _renames_of(model).to_official(state)
        container = "model" if _renames_of(model) is INTERNIMAGE else "state_dict"
        with written_whole(path) as temporary:
            torch.save({container: {names[key]: tensor for key, tensor in state.items()}}, temporary)
    elif layout == "huggingface":
        config = json.dumps(_hugging_face_config(model), indent=2)
        names = INTERNIMAGE.to_official(state)
        with written_whole(path / "model.safetensors") as temporary:
            state = {f"model.{_hugging_face_name(names[key])}": tensor for key, tensor in state.items()}
            safetensors.torch.save_file(state, temporary, metadata={"format": "pt"})
        with written_whole(path / "config.json") as temporary:
            temporary.write_text(config + "\n")
    else:
        raise ValueError(f"save_checkpoint: layout must be 'internimage', 'official' or 'huggingface', got {layout!r}")
    return path


def describe(model: nn.Module) -> dict[str, str]:
    """What a safetensors file of ours says beside the weights: the library's version, and the model's arguments."""
    metadata = {"format": "pt", "library": f"internimage {__version__}"}
    if isinstance(model, InternImage) and len(model.stages) == 4:
        metadata["arguments"] = json.dumps(_arguments(model))
    return metadata


def save_state_dict(state: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Save whole weights as safetensors; the file appears whole or not at all."""
    with written_whole(path) as temporary:
        safetensors.torch.save_file(dict(state), temporary, metadata=metadata)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch.compile and DistributedDataParallel."""
    while isinstance(inner := getattr(model, "_orig_mod", getattr(model, "module", None)), nn.Module):
        model = inner
    return model


def _renames_of(model: nn.Module) -> Renames:
    renames: Renames = getattr(model, "renames", INTERNIMAGE)
    return renames


def _name(source: Source) -> str:
    if isinstance(source, Mapping):
        return "the state dict"
    return source.file if isinstance(source, ReleasedCheckpoint) else os.fspath(source)


def _weights_in(folder: Path) -> Path:
    """The weights in a Hugging Face or DeepSpeed folder."""
    if (folder / "latest").is_file():  # DeepSpeed: names the subfolder of the last step
        folder = folder / (folder / "latest").read_text().strip()
    for name in (*HUGGING_FACE_FILES, _DEEPSPEED_FILE):
        if (folder / name).is_file():
            return folder / name
    raise WeightFileError(
        f"the folder {folder} has none of {', '.join((*HUGGING_FACE_FILES, _DEEPSPEED_FILE))}; name the file itself"
    )


def _leave_out_parts(tensors: State, target: State) -> list[str]:
    """Drop the file's heads or classifier where the model was built without."""
    notes = []
    for title, parts in (
        ("head", ("head.",)),
        ("classifier", ("head.classifier.", "head.metadata.")),
        ("auxiliary head", ("auxiliary_head.",)),
        ("mask heads", ("roi_heads.mask_heads.",)),
    ):
        found = [key for key in tensors if key.startswith(parts)]
        if found and not any(key.startswith(parts[0]) for key in target):
            for key in found:
                del tensors[key]
            notes.append(f"left out the file's {title}, which the model was built without")
    return notes


def _cut_center_taps(tensors: State, model: nn.Module) -> list[str]:
    """Cut the centre taps of offsets and masks where the model has none."""
    cut = 0
    for prefix, layer in model.named_modules():
        if not isinstance(layer, DCNv3) or not layer.remove_center:
            continue
        taps = layer.KERNEL_SIZE**2
        for kind, numbers in (("mask", 1), ("offset", 2)):  # a tap's offset is two numbers
            for part in ("weight", "bias"):
                key = f"{prefix}.{kind}.{part}"
                if key in tensors and len(tensors[key]) == layer.groups * taps * numbers:
                    rows = tensors[key].reshape(layer.groups, taps, numbers, *tensors[key].shape[1:])
                    tensors[key] = torch.cat([rows[:, : taps // 2], rows[:, taps // 2 + 1 :]], dim=1).flatten(0, 2)
                    cut += 1
    return [f"cut the centre taps of {cut} tensors, for remove_center"] if cut else []


def _add_layer_scales(tensors: State, target: State) -> list[str]:
    """Give the blocks of a file without layer scales those of 1, which change nothing."""
    if any(".layer_scale" in key for key in tensors):
        return []
    scales = [
        key for key in target if ".layer_scale" in key and f"{key.partition('.layer_scale')[0]}.norm1.weight" in tensors
    ]
    for key in scales:
        tensors[key] = torch.ones(target[key].shape)
    return ["set the layer scales, which the file lacks, to 1"] if scales else []


def _take_classes(tensors: State, target: State, classifier: Classifier, name: str) -> list[str]:
    rows = tensors.get("head.classifier.weight")
    keys = [key for key in tensors if key.startswith(_CLASSIFIERS)]
    if classifier == "fresh":
        for key in keys:
            del tensors[key]
        return [f"kept the model's classifier, times {_FRESH_FACTOR}"]
    if classifier == "first":
        longer = [key for key in keys if key in target and len(tensors[key]) > len(target[key])]
        for key in longer:
            tensors[key] = tensors[key][: len(target[key])]
        return ["took the first classes of the file's classifier"] if longer else []
    if classifier == "same":
        return []
    if rows is None or len(rows) != 21841:
        raise CheckpointError(
            f"classifier='22k-to-1k' needs a file with 21841 classes, {name} has {0 if rows is None else len(rows)}; "
            "load it with classifier='same'"
        )
    labels = torch.tensor(map_22k_to_1k())
    for key in ("head.classifier.weight", "head.classifier.bias"):
        if key in target and len(target[key]) != len(labels):
            raise CheckpointError(
                f"classifier='22k-to-1k' needs a model of 1000 classes, this one has {len(target[key])}; create it "
                "with num_classes=1000"
            )
        if key in tensors:
            tensors[key] = tensors[key][labels]
    return ["picked the ImageNet-1K classes of the file's ImageNet-22K classifier"]


def _taken(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy for a model, as what is mapped from a file breaks when the file changes; see `mapped_weights`."""
    alone = tensor.untyped_storage().nbytes() == tensor.nbytes  # a view would be exported with all that it views
    return tensor.to(dtype, copy=not (_MAPPED.get() and alone))


def _own_classifier(tensors: State, target: State) -> tuple[str, ...]:
    """What a fresh classifier keeps of the model: the classifier, and a metadata branch that the file lacks."""
    parts = (*_CLASSIFIERS, "head.metadata.")
    return tuple(key for key in target if key.startswith(parts) and key not in tensors)


def _check_values(tensors: State, target: State, name: str) -> None:
    bad = [
        key
        for key, tensor in tensors.items()
        if tensor.is_floating_point() and not tensor.to(target[key].dtype).isfinite().all()
    ]
    if not bad:
        return
    overflow = all(tensors[key].isfinite().all() for key in bad)
    raise CheckpointError(
        f"{name} holds values that are "
        + (f"too large for the model's dtype {target[bad[0]].dtype}" if overflow else "NaN or infinite")
        + f" in {len(bad)} entries: {', '.join(bad[:4])}"
        + ("; create the model in a wider dtype" if overflow else "; its training diverged, or it is corrupted")
    )


def _owned(tensor: Tensor, key: str) -> Tensor:
    """The tensor on the CPU, contiguous, with its memory to itself: a view would be saved with all that it views."""
    if tensor.is_meta:
        raise ValueError(f"save_checkpoint: the model has no values to save, {key} is on the meta device")
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _arguments(model: InternImage) -> dict[str, Any]:
    """The arguments that `InternImage` was built with, as far as they shape the function of its weights."""
    stages: list[Any] = list(model.stages)
    first = stages[0].blocks[0]
    channels = first.dcn.input_proj.in_features
    return {
        "channels": channels,
        "depths": [len(stage.blocks) for stage in stages],
        "groups": [stage.blocks[0].dcn.groups for stage in stages],
        "mlp_ratio": first.mlp.fc1.out_features / channels,
        "layer_scale": 1.0 if isinstance(first.layer_scale1, LayerScale) else None,  # the weights replace the value
        "offset_scale": first.dcn.offset_scale,
        "post_norm": first.post_norm,
        "res_post_norm": isinstance(first.res_norm1, nn.LayerNorm),
        "dw_kernel_size": first.dcn.depthwise.kernel_size[0],
        "center_feature_scale": first.dcn.center_scale is not None,
        "remove_center": first.dcn.remove_center,
        "level2_post_norm_block_ids": list(stages[2].level2_post_norm_block_ids),
        "head": next((name for name, kind in HEADS.items() if type(model.head) is kind), None),
        "num_classes": model.num_classes,
        "in_chans": model.in_chans,
    }


def _hugging_face_config(model: nn.Module) -> dict[str, Any]:
    """The config.json of the official repositories."""
    if not isinstance(model, InternImage) or len(model.stages) != 4:
        raise ValueError("save_checkpoint: layout='huggingface' takes an InternImage with its four stages")
    arguments = _arguments(model)
    head, in_chans = arguments.pop("head"), arguments.pop("in_chans")
    if head == "metadata" or in_chans != 3:
        raise ValueError(
            "save_checkpoint: layout='huggingface' knows neither the metadata head nor other than 3 image channels, "
            f"got head={head!r} and in_chans={in_chans}; use layout='official'"
        )
    return {
        "model_type": "internimage",
        "architectures": ["InternImageModelForImageClassification" if model.num_classes else "InternImageModel"],
        "core_op": "DCNv3",
        **arguments,
        "level2_post_norm": bool(arguments["level2_post_norm_block_ids"]),
        "use_clip_projector": head == "clip",
        "act_layer": "GELU",
        "norm_layer": "LN",
        "cls_scale": 1.5,
        "drop_rate": 0.0,
        "drop_path_rate": 0.0,
        "drop_path_type": "linear",
        "with_cp": False,
        "torch_dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
    }


def _hugging_face_name(official: str) -> str:
    return re.sub(r"\.gamma([12])$", r".layer_scale\1", official)
