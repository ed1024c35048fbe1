"""CB-InternImage: two backbones, the first of which feeds the second (CBNet, arXiv 2107.00420; detection only)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internimage.backbone import InternImage, Stage
from internimage.features import FeatureInfo, select_indices


class CompositeInternImage(nn.Module):
    """An assisting InternImage whose maps are added to the inputs of a lead InternImage's stages.

    Before stage i the lead adds gamma_i times the sum of the assisting maps of stage i and later ones, brought to its
    width and size. The official model rounds gamma to half precision whatever the dtype, and so does this one unless
    told otherwise.

    Shapes: image [N, in_chans, H, W] -> the maps [N, C, h, w] of the assisting and of the lead backbone, a list each.
    Any image size works; the official code needs multiples of 32, where the results are the same.

    Args:
        out_indices: the stages whose maps are returned.
        round_gamma: round gamma to half precision, which the released weights were trained with.
        **arguments: those of `InternImage`, for both backbones; they have no head.
    """

    def __init__(self, *, out_indices: Sequence[int] = (1, 2, 3), round_gamma: bool = True, **arguments: Any) -> None:
        super().__init__()
        self.round_gamma = round_gamma
        self.assisting = InternImage(head=None, **arguments)
        self.lead = InternImage(head=None, **arguments)
        self.lead.stem = nn.Identity()  # it starts from what the assisting backbone's stem returns
        widths = self.assisting.feature_info.channels()
        self.out_indices = tuple(select_indices(out_indices, len(widths)))
        self.feature_info = FeatureInfo(self.assisting.feature_info, out_indices=self.out_indices)
        self.gammas = nn.ParameterList(torch.zeros(width) for width in widths)
        self.links = nn.ModuleList(
            nn.ModuleList(
                nn.Identity() if source == target else nn.Conv2d(widths[source], widths[target], kernel_size=1)
                for source in range(target, len(widths))
            )
            for target in range(len(widths))
        )

    def forward(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        self.assisting.check_image(image)
        x = self.assisting.stem(image)
        assisting = self.assisting.forward_stages(x)
        lead: list[Tensor] = []
        for i, stage in enumerate(cast(Iterable[Stage], self.lead.stages)):
            x = stage(x + self._gamma(i, x.dtype) * self._linked(i, assisting, x.shape[1:3]))
            lead.append(x)
            x = stage.downsample(x)
        return self._selected(assisting), self._selected(lead)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of storing its activations."""
        self.assisting.set_grad_checkpointing(enable)
        self.lead.set_grad_checkpointing(enable)

    def _gamma(self, stage: int, dtype: torch.dtype) -> Tensor:
        gamma: Tensor = self.gammas[stage]
        return (gamma.half() if self.round_gamma else gamma).to(dtype)

    def _linked(self, stage: int, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Sum of the maps of `stage` and later ones, at the width of `stage` and at `size`; [N, *size, C]."""
        linked = [
            F.interpolate(link(x.permute(0, 3, 1, 2)), size=tuple(size), mode="nearest")
            for link, x in zip(cast(nn.ModuleList, self.links[stage]), maps[stage:], strict=True)
        ]
        return reduce(torch.add, linked).permute(0, 2, 3, 1)

    def _selected(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [maps[i].permute(0, 3, 1, 2) for i in self.out_indices]
