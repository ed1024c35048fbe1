"""Segmentors by name: the official configurations, as far as `internimage.released` doesn't say it, and small ones.

Numbers only, imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast

from internimage.released import ReleasedCheckpoint, find
from internimage.tasks.model_names import find_config, list_names

Method = Literal["upernet", "segformer", "mask2former"]
Size = tuple[int, int]  # height and width

DROP_PATH_RATES = {
    "internimage_t": 0.2,
    "internimage_s": 0.3,
    "internimage_b": 0.4,
    "internimage_l": 0.4,
    "internimage_xl": 0.4,
    "internimage_h": 0.5,
    "internimage_g": 0.5,
}
# Arguments of Mask2FormerHead for the larger data sets; its defaults are those of the others.
_LARGE = {
    "channels": 1024,
    "heads": 32,
    "pixel_hidden_channels": 4096,
    "hidden_channels": 4096,
    "queries": 200,
}
_LARGE_DATASETS = ("ADE20K", "COCO-Stuff-164K", "COCO-Stuff-10K")
_STREETS = ("Cityscapes", "Mapillary Vistas")
# Where the test image is bounded by another size than (4 crop, crop).
_TEST_SCALES = {
    "Cityscapes": (2048, 1024),
    "Mapillary Vistas": (2048, 1024),
    "NYU Depth v2": (640, 480),
    "Pascal Context 59": (4096, 520),
}


@dataclass(frozen=True)
class SegmentorConfig:
    """One configuration: an official one, or a small one of ours, which belongs to no data set and has no weights.

    Attributes:
        name: of the configuration.
        method: of the head.
        variant: of the backbone, a name of `internimage.list_models`.
        dataset: that it is trained on; "" for the small ones.
        num_classes: rows of the official classifier; 0 without a data set.
        num_labels: classes of the data set, which come first among those rows.
        crop: size of the training images, pixels.
        checkpoint: name of the released weights; None: there are none.
        head: arguments of the head beyond its defaults.
        auxiliary_channels: of UperNet's auxiliary head.
        test_scale: long and short side that bound the test image, pixels; the shape of the image is kept. None: it
            keeps its own size.
        divisor: both sides of the test image are stretched to a multiple of it.
        test_factors: by which `test_scale` is multiplied, one for each view that a prediction is averaged over.
        mirrored: whether each view's mirror image is a view as well.
        window: size of the windows that the test image is looked at in, pixels; None: it is looked at whole.
        window_stride: between windows, pixels.
    """

    name: str
    method: Method
    variant: str
    dataset: str
    num_classes: int
    num_labels: int
    crop: Size
    checkpoint: str | None
    head: Mapping[str, int]
    test_scale: tuple[int, int] | None
    divisor: int
    auxiliary_channels: int = 256
    test_factors: tuple[float, ...] = (1.0,)
    mirrored: bool = False
    window: Size | None = None
    window_stride: Size | None = None

    @property
    def drop_path_rate(self) -> float:
        """Of the backbone in training."""
        return DROP_PATH_RATES.get(self.variant, 0.0)


def _of_released(row: ReleasedCheckpoint) -> SegmentorConfig:
    """What follows from the row of a released file."""
    if row.config is None or row.resolution is None:
        raise ValueError(f"{row.name} names neither its configuration nor its crop")
    streets = row.dataset in _STREETS
    mask2former = row.method == "mask2former"
    sides = row.resolution
    return SegmentorConfig(
        name=row.config,
        method=cast(Method, row.method),
        variant=row.variant,
        dataset=row.dataset,
        num_classes=row.num_classes,
        num_labels=row.num_labels,
        crop=sides,
        checkpoint=row.name,
        head=_LARGE if mask2former and row.dataset in _LARGE_DATASETS else {},
        test_scale=_TEST_SCALES.get(row.dataset, (4 * max(sides), max(sides))),
        divisor=1 if streets and not mask2former else 32,
        window=sides if streets and mask2former else None,
        window_stride=(512, 512) if streets and mask2former else None,
    )


def _all_configs() -> dict[str, SegmentorConfig]:
    configs = {config.name: config for config in map(_of_released, find(task="segmentation"))}
    huge = configs["upernet_internimage_h_896_160k_ade20k"]
    single = configs["mask2former_internimage_h_896_80k_cocostuff2ade20k_ss"]
    for config in (
        replace(huge, name=huge.name.replace("_h_", "_g_"), variant="internimage_g", checkpoint=None),
        replace(
            single,
            name=single.name.replace("_ss", "_ms"),
            test_factors=tuple(side / 896 for side in (768, 832, 896, 960, 1024)),
            mirrored=True,
        ),
    ):
        configs[config.name] = config
    return configs | {config.name: config for config in _small_configs()}


def _small_configs() -> Iterator[SegmentorConfig]:
    """Heads as large as their backbones, to be trained from scratch on small data or a small machine."""
    for letters, channels in (("atto", 32), ("femto", 64), ("pico", 96), ("nano", 128), ("t", 192)):
        heads: dict[Method, dict[str, int]] = {
            "upernet": {"channels": channels},
            "segformer": {"channels": channels},
            "mask2former": {
                "channels": channels,
                "heads": channels // 16,
                "pixel_hidden_channels": 4 * channels,
                "hidden_channels": 4 * channels,
                "queries": 40,
                "pixel_layers": 3,
                "layers": 3,
            },
        }
        for method, head in heads.items():
            yield SegmentorConfig(
                name=f"{method}_internimage_{letters}_small",
                method=method,
                variant=f"internimage_{letters}",
                dataset="",
                num_classes=0,
                num_labels=0,
                crop=(256, 256),
                checkpoint=None,
                head=head,
                auxiliary_channels=channels,
                test_scale=None,
                divisor=32,
            )


CONFIGS = _all_configs()


def get_config(name: str) -> SegmentorConfig:
    """The configuration of this name, or that of the released file of this name.

    Raises:
        ValueError: there is none; the message lists the nearest names.
    """
    return find_config(CONFIGS, name, "segmentor", "internimage.tasks.segmentation.list_segmentors")


def list_segmentors(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names for `create_segmentor`.

    Args:
        pattern: a shell wildcard, such as "upernet_*_ade20k".
        pretrained: only those with released weights.
    """
    return list_names(CONFIGS, pattern, pretrained=pretrained)
