"""Detectors by name: the official configurations, and small ones. Numbers only, imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from internimage.released import ReleasedCheckpoint, find
from internimage.tasks.model_names import find_config, list_names

BoxLossName = Literal["l1", "smooth_l1", "giou"]

_DROP_PATH_RATES = {"t": 0.2, "s": 0.3, "b": 0.4, "l": 0.4, "xl": 0.4, "h": 0.5, "g": 0.5}
# Released files that serve several configurations, which differ in the data that they are tested on.
_DINO_NAMES = {
    f"dino_4scale_cbinternimage_h_objects365_{file}": tuple(
        f"dino_4scale_cbinternimage_h_objects365_{config}" for config in configs
    )
    for file, configs in (
        ("lvis", ("lvis_val_ss", "lvis_minival_ss")),
        ("openimages", ("openimages_ss",)),
        ("voc0712", ("voc07", "voc12")),
    )
}


@dataclass(frozen=True)
class StageConfig:
    """One stage of heads.

    Attributes:
        stds: of the deltas.
        iou: with a true box, from which on a proposal learns it.
        weight: of the losses.
    """

    stds: tuple[float, float, float, float]
    iou: float
    weight: float


_SINGLE = (StageConfig((0.1, 0.1, 0.2, 0.2), 0.5, 1.0),)
_THREE = (
    *_SINGLE,
    StageConfig((0.05, 0.05, 0.1, 0.1), 0.6, 0.5),
    StageConfig((0.033, 0.033, 0.067, 0.067), 0.7, 0.25),
)


@dataclass(frozen=True)
class DetectorConfig:
    """One configuration: an official one, or a small one of ours, which belongs to no data set and has no weights.

    Attributes:
        name: of the configuration.
        variant: of the backbone, a name of `internimage.list_models`.
        dataset: that it is trained on; "" for the small ones.
        num_classes: of it; 0 without one.
        checkpoint: name of the released weights; None: there are none.
        masks: it draws masks.
        drop_path_rate: of the backbone in training.
        channels: of pyramid and heads.
        hidden_channels: of the fully connected layers.
        test_scale: long and short side that bound the test image, pixels; the shape of the image is kept.
        per_image: detections of an image, at most.
    """

    name: str
    variant: str
    dataset: str
    num_classes: int
    checkpoint: str | None
    masks: bool = False
    drop_path_rate: float = 0.0
    channels: int = 256
    hidden_channels: int = 1024
    test_scale: tuple[int, int] = (1333, 800)
    per_image: int = 100


@dataclass(frozen=True)
class TwoStageConfig(DetectorConfig):
    """Faster, Mask or Cascade R-CNN.

    Attributes:
        stages: of the heads; more than one is a cascade.
        convs: of the box heads, before their fully connected layers.
        fcs: fully connected layers of the box heads.
        class_agnostic: the classes share the deltas of boxes.
        box_loss: of the box heads.
        train_proposals: of an image in training.
    """

    masks: bool = True
    stages: tuple[StageConfig, ...] = _SINGLE
    convs: int = 0
    fcs: int = 2
    class_agnostic: bool = False
    box_loss: BoxLossName = "l1"
    train_proposals: int = 1000


@dataclass(frozen=True)
class DINOConfig(DetectorConfig):
    """DINO. The official G names an MLP in four parts that its release doesn't hold; here it is whole, as all others.

    Attributes:
        composite: two backbones of the variant, the first of which feeds the second.
        encoder_layers: how many.
        decoder_layers: how many.
        queries: objects of an image at most.
        denoising_queries: that are added in training.
    """

    hidden_channels: int = 2048
    composite: bool = False
    encoder_layers: int = 6
    decoder_layers: int = 6
    queries: int = 900
    denoising_queries: int = 100
    per_image: int = 300


def _two_stage(row: ReleasedCheckpoint) -> TwoStageConfig:
    letters = row.variant.rpartition("_")[2]
    config = TwoStageConfig(
        name=row.name,
        variant=row.variant,
        dataset=row.dataset,
        num_classes=row.num_classes,
        checkpoint=row.name,
        drop_path_rate=0.6 if (letters, row.schedule) == ("xl", "3x") else _DROP_PATH_RATES[letters],
    )
    if row.method == "mask_rcnn":
        return config
    return replace(config, stages=_THREE, convs=4, fcs=1, box_loss="giou", train_proposals=2000)


def _dino(row: ReleasedCheckpoint, name: str) -> DINOConfig:
    letters = row.variant.rpartition("_")[2]
    config = DINOConfig(
        name=name,
        variant=row.variant.removeprefix("cb_"),
        dataset=row.dataset,
        num_classes=row.num_classes,
        checkpoint=row.name,
        drop_path_rate=_DROP_PATH_RATES[letters],
        composite=row.variant.startswith("cb_"),
        per_image=100 if letters == "t" else 300,
    )
    if row.pretraining is None:
        return config
    return replace(config, denoising_queries=1000, test_scale=(2000, 1000))


def _all_configs() -> dict[str, DetectorConfig]:
    rows = find(task="detection")
    two_stage = [_two_stage(row) for row in rows if row.method != "dino"]
    crowd = replace(
        next(config for config in two_stage if config.name == "cascade_internimage_xl_fpn_3x_coco"),
        name="cascade_internimage_xl_fpn_3x_crowd_human",
        dataset="CrowdHuman",
        num_classes=1,
        checkpoint=None,
        masks=False,
        convs=0,
        fcs=2,
        class_agnostic=True,
        box_loss="smooth_l1",
        drop_path_rate=0.4,
    )
    dino = [
        _dino(row, name)
        for row in rows
        if row.method == "dino" and row.dataset != "Objects365"
        for name in _DINO_NAMES.get(row.name, (row.config or row.name,))
    ]
    return {config.name: config for config in (*two_stage, crowd, *dino, *_small_configs())}


def _small_configs() -> Iterator[DetectorConfig]:
    """Heads as large as their backbones, to be trained from scratch on small data or a small machine."""
    for letters, channels in (("atto", 32), ("femto", 64), ("pico", 96), ("nano", 128), ("t", 192)):
        for method, masks in (("faster_rcnn", False), ("mask_rcnn", True)):
            yield TwoStageConfig(
                name=f"{method}_internimage_{letters}_small",
                variant=f"internimage_{letters}",
                dataset="",
                num_classes=0,
                checkpoint=None,
                masks=masks,
                channels=channels,
                hidden_channels=4 * channels,
            )
    for letters, channels, queries in (
        ("atto", 64, 100),
        ("femto", 64, 100),
        ("pico", 96, 200),
        ("nano", 96, 200),
        ("t", 128, 300),
    ):
        yield DINOConfig(
            name=f"dino_internimage_{letters}_small",
            variant=f"internimage_{letters}",
            dataset="",
            num_classes=0,
            checkpoint=None,
            channels=channels,
            hidden_channels=4 * channels,
            encoder_layers=3,
            decoder_layers=3,
            queries=queries,
            per_image=100,
        )


CONFIGS = _all_configs()


def get_config(name: str) -> DetectorConfig:
    """The configuration of this name, or that of the released file of this name.

    Raises:
        ValueError: there is none; the message lists the nearest names.
    """
    return find_config(CONFIGS, name, "detector", "internimage.tasks.detection.list_detectors")


def list_detectors(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names for `create_detector`.

    Args:
        pattern: a shell wildcard, such as "mask_rcnn_*_coco".
        pretrained: only those with released weights.
    """
    return list_names(CONFIGS, pattern, pretrained=pretrained)
