"""Reference values of small official models with heads, computed in float32 from weights stored in float16."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from golden_files import DATA, MODEL_ARGUMENTS
from torch import Tensor

from internimage.backbone import InternImageFeatures


@dataclass(frozen=True)
class Golden:
    """What a file holds: see `meta` for how it was made."""

    meta: dict[str, Any]
    state: dict[str, Tensor]  # under the official names
    arrays: Mapping[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        """An array, in float32 where it is stored in float16."""
        tensor = torch.from_numpy(self.arrays[name])
        return tensor.float() if tensor.dtype == torch.float16 else tensor

    def names(self, prefix: str) -> list[str]:
        return [name.removeprefix(prefix) for name in self.arrays if name.startswith(prefix)]


def golden(name: str) -> Golden:
    arrays = np.load(DATA / "golden" / f"{name}.npz")
    reference = Golden(json.loads(str(arrays["meta"])), {}, arrays)
    reference.state.update({key: reference[f"state/{key}"] for key in reference.names("state/")})
    return reference


def golden_backbone(config: dict[str, Any]) -> InternImageFeatures:
    """The backbone of an official configuration."""
    arguments = {key: config[key] for key in (*MODEL_ARGUMENTS, "mlp_ratio") if key in config}
    return InternImageFeatures(head=None, **arguments)


def deviation(got: Tensor, expected: Tensor) -> float:
    """Largest deviation, by the size of what is expected."""
    assert got.shape == expected.shape
    return float((got.detach().double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
