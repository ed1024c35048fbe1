"""Reference values of the official models, and lists of the parameters of the official files."""

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parent / "data"
CLASSIFIERS = ("prenorm", "postnorm_layerscale", "h_like", "g_like")

MODEL_ARGUMENTS = (
    "channels",
    "depths",
    "groups",
    "layer_scale",
    "offset_scale",
    "post_norm",
    "res_post_norm",
    "dw_kernel_size",
    "center_feature_scale",
    "level2_post_norm_block_ids",
    "num_classes",
)


@dataclass(frozen=True)
class GoldenModel:
    """A small official model on one image, computed in float64 from weights stored in float32."""

    arguments: dict[str, Any]  # of InternImage
    state: dict[str, Tensor]  # under the official names
    parameter_gradient_norms: dict[str, float]  # under the official names
    arrays: Mapping[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])


def golden_model(name: str) -> GoldenModel:
    arrays = np.load(DATA / "golden" / f"model_{name}.npz")
    config = json.loads(str(arrays["config"]))
    rules = config["rule_generated"]
    state = {
        key: _generated(key, **rules[key]) if key in rules else torch.from_numpy(arrays[f"sd/{key}"])
        for key in config["state_dict_keys"]
    }
    arguments = {key: config[key] for key in MODEL_ARGUMENTS if key in config}
    if config.get("use_clip_projector"):
        arguments["head"] = "clip"
    return GoldenModel(arguments, state, config.get("param_grad_norms", {}), arrays)


def manifests(*patterns: str) -> list[str]:
    """Names of the lists of parameters that match one of the wildcards."""
    names = sorted(path.name.removesuffix(".json.gz") for path in (DATA / "state_dicts").iterdir())
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def manifest(name: str) -> dict[str, tuple[int, ...]]:
    """Official name -> shape of every entry of an official file."""
    with gzip.open(DATA / "state_dicts" / f"{name}.json.gz") as file:
        return {key: tuple(shape) for key, shape in json.load(file).items()}


def _generated(key: str, shape: list[int], std: float) -> Tensor:
    """Large tensors are not stored; their values follow from their name."""
    values = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(int(np.prod(shape))) * std
    return torch.from_numpy(values.reshape(shape).astype(np.float32))
