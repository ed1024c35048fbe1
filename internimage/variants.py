"""The table of models: the published ones, T to G, and small ones from the same rules. Numbers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from internimage.scaling import BASE, Stacking, scale

Four = tuple[int, int, int, int]


@dataclass(frozen=True)
class Variant:
    """A row of Table 1 (InternImage, CVPR 2023). Width doubles and resolution halves from stage to stage."""

    channels: int  # C1, width of the first stage
    depths: Four  # L1..L4, layers of a stage
    group_width: int = 16  # C', channels that share one set of offsets
    offset_scale: float = 1.0
    layer_scale: float | None = None  # initial value in classification; None: no layer scale
    dense_layer_scale: float | None = 1.0  # the same in the detectors and segmentors: T has one there only
    post_norm: bool = False
    res_post_norm: bool = False
    dw_kernel_size: int = 3
    center_feature_scale: bool = False
    level2_post_norm_block_ids: tuple[int, ...] = ()
    head: Literal["conv", "clip"] = "conv"
    image_size: int = 224  # of the published ImageNet-1K result, pixels
    drop_path_rate: float = 0.1  # of the ImageNet-1K recipe; the task recipes have their own

    @property
    def groups(self) -> Four:
        """Groups of the four stages."""
        first = self.channels // self.group_width
        return (first, 2 * first, 4 * first, 8 * first)


def _small(stacking: Stacking) -> Variant:
    return Variant(stacking.channels, stacking.depths, stacking.group_width, drop_path_rate=0.0)


def _every_sixth_block(depth: int) -> tuple[int, ...]:
    return tuple(range(5, depth, 6))


VARIANTS: dict[str, Variant] = {
    "internimage_atto": _small(scale(BASE, -4, group_width=8)),
    "internimage_femto": _small(scale(BASE, -3, group_width=8)),
    "internimage_pico": _small(scale(BASE, -2)),
    "internimage_nano": _small(scale(BASE, -1)),
    "internimage_t": Variant(BASE.channels, BASE.depths, BASE.group_width),
    "internimage_s": Variant(80, (4, 4, 21, 4), layer_scale=1e-5, post_norm=True, drop_path_rate=0.4),
    "internimage_b": Variant(112, (4, 4, 21, 4), layer_scale=1e-5, post_norm=True, drop_path_rate=0.5),
    "internimage_l": Variant(
        160, (5, 5, 22, 5), offset_scale=2.0, layer_scale=1e-5, post_norm=True, image_size=384, drop_path_rate=0.1
    ),
    "internimage_xl": Variant(
        192, (5, 5, 24, 5), offset_scale=2.0, layer_scale=1e-5, post_norm=True, image_size=384, drop_path_rate=0.2
    ),
    "internimage_h": Variant(
        320,
        (6, 6, 32, 6),
        group_width=32,
        dense_layer_scale=None,
        res_post_norm=True,
        dw_kernel_size=5,
        center_feature_scale=True,
        level2_post_norm_block_ids=_every_sixth_block(32),
        head="clip",
        image_size=640,
        drop_path_rate=0.2,
    ),
    "internimage_g": Variant(  # does not follow the stacking rules
        512,
        (2, 2, 48, 4),
        group_width=32,
        dense_layer_scale=None,
        post_norm=True,
        dw_kernel_size=5,
        center_feature_scale=True,
        level2_post_norm_block_ids=_every_sixth_block(48),
        head="clip",
        image_size=512,
        drop_path_rate=0.4,
    ),
}
