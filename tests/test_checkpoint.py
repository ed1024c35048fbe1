"""Weights survive every layout unchanged; files that don't fit, are broken or unsafe are refused and change nothing."""

import collections
import json
import pickle
import sys
import types
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from torch import Tensor, nn

from internimage import checkpoint as checkpoint_module
from internimage.backbone import InternImage
from internimage.checkpoint import (
    CheckpointError,
    LoadReport,
    load_checkpoint,
    mapped_weights,
    read_state_dict,
    save_checkpoint,
)
from internimage.composite import CompositeInternImage
from internimage.imagenet import map_22k_to_1k
from internimage.models import create_model
from internimage.ops import use_backend
from internimage.renames import INTERNIMAGE
from internimage.weight_files import WeightFileError

SMALL: dict[str, Any] = {"channels": 16, "depths": (1, 1, 2, 1), "groups": (1, 2, 4, 8), "num_classes": 10}
KINDS: dict[str, dict[str, Any]] = {
    "like T": {},
    "like L": {"post_norm": True, "layer_scale": 1e-5, "offset_scale": 2.0},
    "like H": {
        "res_post_norm": True,
        "dw_kernel_size": 5,
        "center_feature_scale": True,
        "level2_post_norm_block_ids": (1,),
        "head": "clip",
    },
    "like G": {
        "post_norm": True,
        "dw_kernel_size": 5,
        "center_feature_scale": True,
        "level2_post_norm_block_ids": (0, 1),
        "head": "clip",
    },
    "like the iNaturalist model": {"res_post_norm": True, "head": "metadata"},
    "without classes": {"num_classes": 0},
    "without a head": {"head": None},
    "of remove_center": {"remove_center": True},
}
PATHS = {"internimage": "w.safetensors", "official": "w.pth", "huggingface": "repository"}


@pytest.fixture(autouse=True)
def pure_pytorch():
    with use_backend("torch"):
        yield


def small(seed: int = 0, **options: Any) -> InternImage:
    """A small model in which every value counts: none is at its initial 0 or 1."""
    return randomised(InternImage(**{**SMALL, **options}), seed).eval()


def randomised(model: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.05, 0.3, generator=generator)
            else:
                tensor.fill_(seed + 7)
    return model


def logits(model: nn.Module) -> Tensor:
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    image = image.to(next(model.parameters()).dtype)
    with torch.inference_mode():
        return model(image)


def official(model: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    state = model.state_dict()
    return {prefix + name: state[key].clone() for key, name in INTERNIMAGE.to_official(state).items()}


def same(a: nn.Module, b: nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def saved(content: Any, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def refused(error: type[Exception], match: str, model: nn.Module, source: Any, **options: Any) -> None:
    """The load fails with this message and leaves the model alone."""
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(error, match=match):
        load_checkpoint(model, source, **options)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


# Layouts


@pytest.mark.parametrize("layout", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_survive_a_round_trip(kind, layout, tmp_path):
    model, other = small(0, **KINDS[kind]), small(1, **KINDS[kind])
    path = tmp_path / PATHS[layout]
    if layout == "huggingface" and "iNaturalist" in kind:
        with pytest.raises(ValueError, match="knows neither the metadata head"):
            save_checkpoint(model, path, layout=layout)
        return
    assert save_checkpoint(model, path, layout=layout) == path
    report = load_checkpoint(other, path)
    assert same(model, other)
    assert (report.missing, report.unexpected, report.notes) == ((), (), ())


def test_weights_pass_through_all_layouts(tmp_path):
    model = small(0, **KINDS["like H"])
    expected, current = logits(model), model
    for layout, path in PATHS.items():
        save_checkpoint(current, tmp_path / path, layout=layout)
        current = small(1, **KINDS["like H"])
        load_checkpoint(current, tmp_path / path)
    assert torch.equal(logits(current), expected)


def test_official_files_have_official_names_and_nothing_else(tmp_path):
    model = small(0, **KINDS["like L"])
    content = torch.load(save_checkpoint(model, tmp_path / "w.pth", layout="official"), weights_only=True)
    assert list(content) == ["model"]
    assert list(content["model"]) == list(INTERNIMAGE.to_official(model.state_dict()).values())
    assert {"patch_embed.conv1.weight", "levels.0.blocks.0.gamma1", "conv_head.0.weight", "head.bias"} <= set(
        content["model"]
    )


def test_hugging_face_folders_have_their_names_and_config(tmp_path):
    model = small(0, **KINDS["like L"])
    folder = save_checkpoint(model, tmp_path / "repository", layout="huggingface")
    with safetensors.safe_open(folder / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
        assert file.metadata() == {"format": "pt"}
    assert all(name.startswith("model.") for name in names)
    assert {"model.levels.0.blocks.0.layer_scale1", "model.levels.2.blocks.1.layer_scale2"} <= names
    assert not any("gamma" in name for name in names)
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "internimage"
    assert (config["channels"], config["depths"], config["groups"]) == (16, [1, 1, 2, 1], [1, 2, 4, 8])
    assert (config["post_norm"], config["offset_scale"], config["use_clip_projector"]) == (True, 2.0, False)


@pytest.mark.parametrize("kind", KINDS)
def test_our_files_tell_how_to_build_the_model(kind, tmp_path):
    model = small(0, **KINDS[kind])
    path = save_checkpoint(model, tmp_path / "w.safetensors")
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["library"].startswith("internimage ")
    rebuilt = InternImage(**json.loads(metadata["arguments"])).eval()
    load_checkpoint(rebuilt, path)
    assert torch.equal(logits(rebuilt), logits(model))


def test_the_composite_backbone_survives_a_round_trip(tmp_path):
    options = {key: value for key, value in SMALL.items() if key != "num_classes"}
    model, other = (randomised(CompositeInternImage(**options), seed) for seed in (0, 1))
    for layout in ("internimage", "official"):
        path = save_checkpoint(model, tmp_path / PATHS[layout], layout=layout)
        randomised(other, 1)
        load_checkpoint(other, path)
        assert same(model, other)
    refused(CheckpointError, "load it into a CompositeInternImage", small(1, head=None), path)
    refused(
        CheckpointError,
        "the file holds a single one",
        other,
        {"state_dict": official(small(0, head=None), "backbone.")},
    )


def test_a_file_takes_the_room_of_its_weights_alone(tmp_path):
    model = small(head=None)
    big = torch.ones(1000, *model.stem.conv1.weight.shape)
    model.stem.conv1.weight.data = big[3]  # a view of something large
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert save_checkpoint(model, tmp_path / "w.pth", layout="official").stat().st_size < size + 200_000


def test_a_failing_save_leaves_the_old_file(tmp_path, monkeypatch):
    model = small()
    path = save_checkpoint(model, tmp_path / "w.safetensors")
    before = path.read_bytes()

    def break_off(state: object, file: Path, metadata: object) -> None:
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module.safetensors.torch, "save_file", break_off)
        with pytest.raises(OSError, match="No space"):
            save_checkpoint(small(1), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_saving_refuses_what_it_cannot_express(tmp_path):
    with pytest.raises(ValueError, match=r"layout must be .*got 'timm'"):
        save_checkpoint(small(), tmp_path / "w", layout="timm")
    with pytest.raises(ValueError, match="on the meta device"):
        save_checkpoint(small().to("meta"), tmp_path / "w")
    with pytest.raises(ValueError, match="takes an InternImage"):
        save_checkpoint(nn.Linear(2, 2), tmp_path / "w", layout="huggingface")
    assert list(tmp_path.iterdir()) == []


# Containers and wrappers


def _in(*keys: str, prefix: str = "", **beside: Any) -> Any:
    def wrap(model: nn.Module) -> Any:
        content: Any = official(model, prefix)
        for key in reversed(keys):
            content = {"epoch": 300, key: content, **beside}
        return content

    return wrap


CONTAINERS = {
    "classification": _in("model"),
    "classification, with training state": _in("model", optimizer={"state": {}}, max_accuracy=83.5, lr_scheduler={}),
    "DeepSpeed": _in("module"),
    "raw": _in(),
    "DistributedDataParallel": _in("model", prefix="module."),
    "torch.compile": _in("model", prefix="_orig_mod."),
    "both": _in("model", prefix="module._orig_mod."),
    "student": lambda model: {
        "model": official(model, "student.")
        | official(small(9), "teacher.")
        | {"student_proj.weight": torch.ones(2), "teacher_proj.weight": torch.ones(2)}
    },
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_official_containers_load(container, zipped, tmp_path):
    model, other = small(0), small(1)
    path = saved(CONTAINERS[container](model), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    load_checkpoint(other, path)
    assert same(model, other)


def test_a_mapping_loads_like_a_file():
    model, other = small(0), small(1)
    load_checkpoint(other, {"model": official(model)})
    assert same(model, other)
    load_checkpoint(other, small(2).state_dict())
    assert same(small(2), other)


def test_weights_load_into_wrapped_models(tmp_path):
    model = small(0)
    for wrap in (nn.DataParallel, partial(torch.compile, backend="eager")):
        path = save_checkpoint(wrap(model), tmp_path / "w.safetensors")
        other = small(1)
        load_checkpoint(wrap(other), path)
        assert same(model, other)


def test_the_moving_average_loads_on_request(tmp_path):
    model, average, other = small(0), small(1), small(2)
    path = saved({"model": official(model), "model_ema": official(average, "module.")}, tmp_path / "w.pth")
    load_checkpoint(other, path)
    assert same(model, other)
    load_checkpoint(other, path, ema=True)
    assert same(average, other)
    path = saved({"model": official(model), "epoch": 3}, tmp_path / "w.pth")
    refused(WeightFileError, r"no moving average .*only model \(dict\), epoch \(int\)", other, path, ema=True)


def test_hugging_face_bin_files_and_shards_load(tmp_path):
    model, other = small(0, **KINDS["like L"]), small(1, **KINDS["like L"])
    state = {key.replace("gamma", "layer_scale"): tensor for key, tensor in official(model, "model.").items()}
    one, many = tmp_path / "one", tmp_path / "many"
    one.mkdir()
    many.mkdir()
    saved(state, one / "pytorch_model.bin")
    load_checkpoint(other, one)
    assert same(model, other)

    shard_of = {key: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, key in enumerate(state)}
    for shard in set(shard_of.values()):
        safetensors.torch.save_file({key: state[key] for key in state if shard_of[key] == shard}, many / shard)
    (many / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shard_of}))
    other = small(1, **KINDS["like L"])
    load_checkpoint(other, many)
    assert same(model, other)
    (many / "model-00002-of-00002.safetensors").unlink()
    refused(FileNotFoundError, "names model-00002-of-00002.safetensors, which is not beside it", other, many)


def test_deepspeed_folders_load(tmp_path):
    model, other = small(0), small(1)
    (tmp_path / "epoch9").mkdir()
    (tmp_path / "latest").write_text("epoch9\n")
    saved({"module": official(model), "dp_world_size": 8}, tmp_path / "epoch9" / "mp_rank_00_model_states.pt")
    load_checkpoint(other, tmp_path)
    assert same(model, other)
    (tmp_path / "latest").unlink()
    refused(WeightFileError, r"has none of model.safetensors, .*name the file itself", other, tmp_path)


def test_backbones_of_detectors_and_segmentors_load(tmp_path):
    options = {"head": None, "layer_scale": 1.0}
    model, other = small(0, **options), small(1, **options)
    state = official(model, "backbone.") | {
        "neck.lateral_convs.0.conv.weight": torch.ones(2),
        "rpn_head.rpn_conv.weight": torch.ones(2),
        "ema_backbone_patch_embed_conv1_weight": torch.ones(2),  # left by an EMA hook
    }
    path = saved({"state_dict": state, "meta": {"CLASSES": ("person",), "PALETTE": [[1, 2, 3]]}}, tmp_path / "w.pth")
    report = load_checkpoint(other, path)
    assert same(model, other)
    assert report.origin == "a detector"
    assert report.unexpected == ("neck.lateral_convs.0.conv.weight", "rpn_head.rpn_conv.weight")
    refused(CheckpointError, "a detector has no classification head; create the model with head=None", small(1), path)


def test_m3i_files_load_with_the_norm_before_the_classifier():
    model, other = small(0, **KINDS["like H"]), small(1, **KINDS["like H"])
    state = {
        "mask_token": torch.ones(1),
        "mm_dcnv3.patch_embed.conv1.bias": torch.ones(8),
        "text.weight": torch.ones(1),
    }
    for key, tensor in official(model).items():
        if key.startswith("fc_norm.0."):
            state[key.replace("fc_norm.0", "clip.classifier_ln")] = tensor
        elif key.startswith("head."):
            state[key.replace("head", "clip.classifier")] = tensor
        else:
            state[key if key.startswith("clip_projector.") else f"dcnv3.{key}"] = tensor
    load_checkpoint(other, {"model": state})
    assert same(model, other)


def test_a_state_dict_can_be_read_without_a_model(tmp_path):
    state = official(small(0), "backbone.") | {"decode_head.conv_seg.bias": torch.ones(150)}
    path = saved({"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, tmp_path / "w.pth")
    read = read_state_dict(path)
    assert list(read) == list(state)
    assert all(torch.equal(read[key], state[key]) for key in state)


# What is adapted on the way


def test_classes_of_imagenet_1k_are_picked_from_those_of_22k(tmp_path):
    wide, model = small(0, num_classes=21841), small(1, num_classes=1000)
    path = saved({"model": official(wide)}, tmp_path / "w.pth")
    refused(CheckpointError, r"has 21841 classes, the model 1000; .*classifier='22k-to-1k'", model, path)
    report = load_checkpoint(model, path, classifier="22k-to-1k")
    torch.testing.assert_close(logits(model), logits(wide)[:, list(map_22k_to_1k())])
    assert report.notes == ("picked the ImageNet-1K classes of the file's ImageNet-22K classifier",)
    refused(CheckpointError, "needs a model of 1000 classes, this one has 10;", small(1), path, classifier="22k-to-1k")
    narrow = saved({"model": official(small(0))}, tmp_path / "n.pth")
    refused(CheckpointError, r"needs a file with 21841 classes, .*has 10;", model, narrow, classifier="22k-to-1k")


def test_a_fresh_classifier_is_the_models_own_made_small(tmp_path):
    pretrained, model = small(0, num_classes=12), small(1)
    path = saved({"model": official(pretrained)}, tmp_path / "w.pth")
    own = {key: tensor.clone() for key, tensor in model.state_dict().items() if key.startswith("head.classifier.")}
    load_checkpoint(model, path, classifier="fresh")
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, own[key] * 0.001 if key in own else pretrained.state_dict()[key])
    assert len(own) == 2


def test_the_inaturalist_model_starts_from_an_imagenet_file(tmp_path):
    options = {**KINDS["like the iNaturalist model"], "num_classes": 20}
    path = saved(
        {
            "model": official(
                small(
                    0,
                    **{**options, "head": "clip"},
                )
            )
        },
        tmp_path / "w.pth",
    )
    model = small(1, **options)
    branch = {key: tensor.clone() for key, tensor in model.state_dict().items() if key.startswith("head.metadata.")}
    refused(CheckpointError, "another head: the file has the head 'clip', the model the head 'metadata'", model, path)
    load_checkpoint(model, path, classifier="fresh")
    assert branch
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in branch.items())


def test_fresh_needs_a_classifier_with_values():
    refused(ValueError, "but this model has none", small(0, head=None), official(small(0)), classifier="fresh")
    with pytest.raises(ValueError, match="on the meta device"):
        load_checkpoint(small(0).to("meta"), official(small(0)), classifier="fresh")
    refused(ValueError, "classifier must be 'same'", small(0), official(small(0)), classifier="new")


def test_a_model_without_centre_taps_is_one_whose_centre_masks_vanish():
    full, cut = small(0).double(), small(1, remove_center=True).double()
    for module in full.modules():
        if hasattr(module, "mask"):
            module.mask.bias.data.view(-1, 9)[:, 4] = -1e4  # the softmax makes 0 of it
    report = load_checkpoint(cut, official(full))
    torch.testing.assert_close(logits(cut), logits(full), rtol=1e-12, atol=0)
    assert report.notes == ("cut the centre taps of 20 tensors, for remove_center",)
    refused(CheckpointError, "the option groups or remove_center", small(0), official(cut))


def test_missing_layer_scales_become_one_and_change_nothing(tmp_path):
    model, scaled = small(0), small(1, layer_scale=1e-5)
    report = load_checkpoint(scaled, official(model))
    assert torch.equal(logits(scaled), logits(model))
    assert report.notes == ("set the layer scales, which the file lacks, to 1",)
    partly = official(small(0, layer_scale=1.0))
    del partly["levels.0.blocks.0.gamma1"]
    refused(CheckpointError, r"1 missing from the file: stages.0.blocks.0.layer_scale1.gamma", scaled, partly)


@pytest.mark.parametrize("options", [{"head": None}, {"num_classes": 0}], ids=["no head", "no classes"])
def test_parts_that_the_model_was_built_without_stay_in_the_file(options):
    model, part = small(0), small(1, **options)
    report = load_checkpoint(part, official(model))
    whole = model.state_dict()
    assert all(torch.equal(tensor, whole[key]) for key, tensor in part.state_dict().items())
    assert report.notes[0].startswith("left out the file's ")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_values_are_converted_to_the_models_dtype(dtype, tmp_path):
    source, model = small(0), small(1)
    load_checkpoint(model, saved(official(source.to(dtype)), tmp_path / "w.pth"))
    assert all(t.dtype in (torch.float32, torch.int64) for t in model.state_dict().values())
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[key].to(tensor.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_model_on_the_meta_device_gets_its_tensors_from_the_file(dtype, tmp_path):
    source = small(0)
    path = saved(official(source), tmp_path / "w.pth")
    with torch.device("meta"):
        model = InternImage(**SMALL).to(dtype).eval()
    load_checkpoint(model, path)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in model.parameters())
    path.write_bytes(b"\0" * path.stat().st_size)  # the tensors don't live in the file
    assert all(torch.equal(t, source.state_dict()[k].to(t.dtype)) for k, t in model.state_dict().items())
    incomplete = official(source)
    del incomplete["head.bias"]
    with torch.device("meta"):
        model = InternImage(**SMALL)
    with pytest.raises(CheckpointError, match="1 missing from the file"):
        load_checkpoint(model, incomplete, strict=False)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_not_strict_loads_what_fits_and_tells_the_rest():
    source, model = official(small(0)), small(1)
    del source["head.bias"]
    source["extra.weight"] = torch.ones(1)
    refused(
        CheckpointError,
        "1 missing from the file: head.classifier.bias\n  1 not in the model: extra.weight",
        model,
        source,
    )
    report = load_checkpoint(model, source, strict=False)
    assert report == LoadReport("a classifier", ("head.classifier.bias",), ("extra.weight",))
    assert torch.equal(model.state_dict()["head.classifier.bias"], small(1).state_dict()["head.classifier.bias"])
    assert torch.equal(model.state_dict()["stem.conv1.bias"], small(0).state_dict()["stem.conv1.bias"])
    source["patch_embed.conv1.bias"] = torch.ones(3)
    refused(CheckpointError, r"stem.conv1.bias \(file \[3\], model \[8\]\)", model, source, strict=False)


# What doesn't fit


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"num_classes": 7}, "the file has 10 classes, the model 7; create the model with num_classes=10"),
        ({"channels": 32, "groups": (2, 4, 8, 16)}, r"another variant: the file looks like .*\(channels=16,"),
        ({"depths": (1, 1, 3, 1)}, r"another variant: .* like no .*depths=\(1, 1, 3, 1\)"),
        ({"head": "clip"}, "another head: the file has the head 'conv', the model the head 'clip'"),
        ({"in_chans": 1}, "images of 3 channels, the model of 1"),
        ({"dw_kernel_size": 5}, "the option dw_kernel_size"),
        ({"groups": (2, 4, 8, 16)}, "the option groups"),
        ({"res_post_norm": True}, "the option res_post_norm"),
        ({"center_feature_scale": True}, "the option center_feature_scale"),
        ({"level2_post_norm_block_ids": (1,)}, "the option level2_post_norm_block_ids"),
        ({"post_norm": True}, "the option post_norm"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_misfit_names_its_cause(options, cause, tmp_path):
    path = save_checkpoint(small(0), tmp_path / "w.pth", layout="official")
    refused(
        CheckpointError,
        rf"(?s)w.pth \(a classifier\) does not fit the model:\n.*Likely cause: .*{cause}",
        small(1, **options),
        path,
    )


def test_a_file_of_another_published_variant_is_recognised():
    with torch.device("meta"):
        models = {name: create_model(name) for name in ("internimage_t", "internimage_s", "internimage_h")}
    for one, other in (("t", "s"), ("h", "t")):
        state = models[f"internimage_{one}"].state_dict()
        with pytest.raises(
            CheckpointError, match=rf"looks like internimage_{one} .* the model like internimage_{other} "
        ):
            load_checkpoint(models[f"internimage_{other}"], {key: state[key] for key in state})


def test_a_file_with_layer_scales_does_not_fit_a_model_without():
    refused(CheckpointError, "the option layer_scale", small(1), official(small(0, layer_scale=1.0)))


def test_a_file_without_classifier_says_so():
    state = official(small(0))
    del state["head.weight"], state["head.bias"]
    refused(CheckpointError, "has no classifier; pass classifier='fresh'", small(1), state)


def test_another_architecture_is_recognised():
    refused(CheckpointError, "another architecture", small(1), {"layer1.0.conv1.weight": torch.ones(2)})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinite_values_are_named(value):
    state = official(small(0))
    state["levels.2.blocks.1.mlp.fc1.weight"][0, 0] = value
    refused(CheckpointError, r"NaN or infinite in 1 entries: stages.2.blocks.1.mlp.fc1.weight;", small(1), state)


def test_values_too_large_for_the_models_dtype_are_named():
    state = official(small(0))
    state["levels.0.blocks.0.mlp.fc1.bias"][0] = 1e5
    refused(CheckpointError, r"too large for the model's dtype torch.float16 .*fc1.bias", small(1).half(), state)


# Broken and unsafe files


def _cut_to(share: float):
    return lambda content: content[: int(len(content) * share)]


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut_to(0.99), "truncated or corrupted"),
        (_cut_to(0.5), "truncated or corrupted"),
        (_cut_to(0.0), "is empty"),
        (lambda content: b"<html><body>404</body></html>", "is a web page"),
        (lambda content: b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (lambda content: b"\x89PNG\r\n\x1a\n" + content, "neither a PyTorch nor a safetensors file"),
    ],
    ids=["99%", "half", "empty", "web page", "LFS pointer", "picture"],
)
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_damaged_file_is_refused(kind, damage, message, tmp_path):
    path = tmp_path / "w"
    if kind == "safetensors":
        save_checkpoint(small(0), path)
    else:
        saved(official(small(0)), path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(damage(path.read_bytes()))
    refused(WeightFileError, message, small(1), path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_random_damage_is_refused_or_harmless(kind, tmp_path):
    """Whatever goes wrong inside a parser comes out as one of our two errors."""
    random, path = np.random.default_rng(0), tmp_path / "w"
    state = {key: tensor for key, tensor in official(small(0)).items() if key.startswith("patch_embed.")}
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        saved({"model": state, "epoch": 3}, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    refusals = 0
    for _ in range(200):
        damaged = bytearray(content)
        for position in random.integers(0, len(content), 3):
            damaged[position] = random.integers(0, 256)
        path.write_bytes(damaged)
        try:
            read_state_dict(path)
        except WeightFileError:
            refusals += 1
    assert refusals > (5 if kind == "safetensors" else 50)  # safetensors has no checksum of the values


def test_a_flipped_bit_in_a_zip_is_found_by_its_checksum(tmp_path):
    path = save_checkpoint(small(0), tmp_path / "w.pth", layout="official")
    path.write_bytes(_flipped(path.read_bytes()))
    refused(WeightFileError, r"truncated or corrupted \(Bad CRC", small(1), path)


def test_a_zip_without_checksums_loads(tmp_path):
    previous = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = save_checkpoint(small(0), tmp_path / "w.pth", layout="official")
    finally:
        torch.serialization.set_crc32_options(previous)
    model = small(1)
    load_checkpoint(model, path)
    assert same(model, small(0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, expected a mapping"),
        ({}, "holds no weights, only nothing"),
        ({"epoch": 3, "config": {}}, r"holds no weights, only epoch \(int\), config \(dict\)"),
        ({"model": {}}, "holds no weights"),
    ],
)
def test_a_file_without_weights_says_what_it_holds(content, message, tmp_path):
    refused(WeightFileError, message, small(1), saved(content, tmp_path / "w.pth"))


def test_an_index_that_points_elsewhere_is_refused(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    refused(WeightFileError, "not a plain file name", small(1), tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    refused(WeightFileError, "is not an index of weight files", small(1), tmp_path)


class Malice:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_pickle_is_not_run(zipped, tmp_path):
    evidence = tmp_path / "evidence"
    content = {"model": official(small(0)), "config": Malice(evidence)}
    path = saved(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    refused(
        WeightFileError,
        r"w.pth pickles \S*(Path|getattr)\S*, which is not on the list .*nothing of it was run",
        small(1),
        path,
    )
    assert not evidence.exists()
    pickle.loads(pickle.dumps(content["config"]))  # it does what it threatens
    assert evidence.exists()


def test_a_pickle_of_system_calls_is_not_run(tmp_path):
    evidence = tmp_path / "evidence"
    program = f"cos\nsystem\n(S'touch {evidence}'\ntR.".encode()
    (tmp_path / "w.pth").write_bytes(b"\x80\x02" + program)
    refused(WeightFileError, "w.pth", small(1), tmp_path / "w.pth")
    assert not evidence.exists()
    pickle.loads(b"\x80\x02" + program)
    assert evidence.exists()


@pytest.fixture
def yacs(monkeypatch):
    """A module that pickles like yacs: its CfgNode is a dict with attributes."""
    module = types.ModuleType("yacs.config")

    class CfgNode(dict):  # type: ignore[type-arg]
        def __init__(self, content: dict[str, Any]) -> None:
            super().__init__(content)
            self.__dict__.update(__immutable__=True, __deprecated_keys__=set(), __new_allowed__=False)

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module.CfgNode = CfgNode
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        patch.setitem(sys.modules, "yacs.config", module)
        yield CfgNode


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_with_the_official_training_state_loads(yacs, zipped, tmp_path, monkeypatch):
    content = collections.OrderedDict(
        model=official(small(0)),
        config=yacs({"MODEL": yacs({"NAME": "internimage_t", "DEPTHS": [4, 4, 18, 4]}), "LR": 1e-3}),
        max_accuracy=np.float64(83.5),
        max_accuracy_ema=np.float32(83.4),
        epoch=np.int64(299),
        best=np.bool_(True),
    )
    path = saved(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, "yacs.config")
    monkeypatch.delitem(sys.modules, "yacs")
    model = small(1)
    load_checkpoint(model, path)
    assert same(model, small(0))
    allowed = [entry[1] for entry in torch.serialization.get_safe_globals() if isinstance(entry, tuple)]
    assert not [name for name in allowed if name.startswith(("yacs", "numpy"))]  # only while we read


def test_numpy_objects_are_not_read(tmp_path):
    content = {"model": official(small(0)), "best": np.array([1.0])}
    refused(WeightFileError, "pickles numpy.*which is not on the list", small(1), saved(content, tmp_path / "w.pth"))
    content["best"] = np.float64(1).astype(">f8")
    load_checkpoint(small(1), saved(content, tmp_path / "w.pth"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("layout", ["internimage", "official"])
def test_weights_stay_mapped_where_asked_for(layout: checkpoint_module.Layout, tmp_path: Path) -> None:
    def mapped() -> set[bool]:
        lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
        ranges = [[int(end, 16) for end in line[0].split("-")] for line in lines if line[-1] == str(path)]
        return {any(a <= x.data_ptr() < b for a, b in ranges) for x in model.parameters()}

    original = small()
    path = save_checkpoint(original, tmp_path / PATHS[layout], layout=layout)
    with mapped_weights():
        model = create_model("internimage_t", checkpoint=path, **SMALL)
    assert mapped() == {True}
    assert same(model, original)
    model = create_model("internimage_t", checkpoint=path, **SMALL)
    assert mapped() == {False}
