"""Every file of the official release as data: what it holds, what it scored, where it lies. Imports no torch.

Figures are the published ones, in the rounding of the release's own tables; None where the release says nothing.
"""

import difflib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

BASE_URL = "https://huggingface.co/OpenGVLab/InternImage/resolve/main"

Task = Literal["classification", "detection", "segmentation"]
Testing = Literal["single-scale", "multi-scale", "test-time augmentation"]


@dataclass(frozen=True)
class Metric:
    """A published figure, in percent."""

    name: str  # "acc@1", "box AP", "mask AP", "mAP", "mIoU"
    value: float
    testing: Testing = "single-scale"
    split: str = "val"


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """One released file.

    Attributes:
        name: "variant.tag" for classification, as timm names weights; the file's stem for detection and segmentation.
        config: name of the official config file; None where the release holds none or doesn't say which.
        variant: backbone, a name of `internimage.list_models`; "cb_internimage_h" is the composite backbone.
        method: "classifier", "mask_rcnn", "cascade_mask_rcnn", "dino", "upernet", "segformer" or "mask2former".
        resolution: (height, width) of the input for classification and of the training crop for segmentation;
            limits of (short, long) side at test time for detection.
        num_classes: rows of the file's classifier.
        num_labels: classes that the data set labels. Cityscapes and Mapillary files of UperNet and SegFormer carry
            150-way classifiers for 19 labels.
        pretraining: data of the earlier stages, oldest first.
        parameters: of the whole model; exact for classification, rounded as published otherwise.
        hf_repo: Hugging Face repository with the same weights in `transformers` layout.
    """

    name: str
    file: str
    task: Task
    method: str
    variant: str
    dataset: str
    num_classes: int
    num_labels: int
    resolution: tuple[int, int] | None
    config: str | None
    pretraining: str | None = None
    schedule: str | None = None
    metrics: tuple[Metric, ...] = ()
    parameters: int | None = None
    gflops: float | None = None
    hf_repo: str | None = None
    licence: str | None = "MIT"  # of the project's release
    note: str | None = None

    @property
    def url(self) -> str:
        return f"{BASE_URL}/{self.file}"


_JOINT = "427M joint set (LAION-400M, YFCC-15M, CC12M)"
_JOINT_22K = f"{_JOINT} -> ImageNet-22K"
_CLASSES = {
    "ImageNet-1K": 1000,
    "ImageNet-22K": 21841,
    "iNaturalist 2018": 8142,
    "ADE20K": 150,
    "Cityscapes": 19,
    "Mapillary Vistas": 19,
    "COCO-Stuff-164K": 171,
    "COCO-Stuff-10K": 171,
    "Pascal Context 59": 59,
    "NYU Depth v2": 40,
}


def _classifier(
    variant: str,
    tag: str,
    stem: str,
    dataset: str,
    side: int,
    parameters: int,
    *,
    acc1: float | None = None,
    gflops: float | None = None,
    pretraining: str | None = None,
    hf_repo: str | None = None,
    note: str | None = None,
) -> ReleasedCheckpoint:
    return ReleasedCheckpoint(
        name=f"internimage_{variant}.{tag}",
        file=f"internimage_{stem}.pth",
        task="classification",
        method="classifier",
        variant=f"internimage_{variant}",
        dataset=dataset,
        num_classes=_CLASSES[dataset],
        num_labels=_CLASSES[dataset],
        resolution=(side, side),
        config=None if dataset == "ImageNet-22K" else f"internimage_{stem}",  # no recipe of the 22K stage is public
        pretraining=pretraining,
        metrics=() if acc1 is None else (Metric("acc@1", acc1),),
        parameters=parameters,
        gflops=gflops,
        hf_repo=None if hf_repo is None else f"OpenGVLab/internimage_{hf_repo}",
        note=note,
    )


def _coco(
    stem: str,
    method: str,
    variant: str,
    schedule: str,
    box_ap: float,
    mask_ap: float | None,
    parameters_m: int,
    gflops: float | None = None,
    *,
    config: str | None = None,
) -> ReleasedCheckpoint:
    """A 1x or 3x run on COCO."""
    box = Metric("box AP", box_ap)
    return ReleasedCheckpoint(
        name=stem,
        file=f"{stem}.pth",
        task="detection",
        method=method,
        variant=f"internimage_{variant}",
        dataset="COCO",
        num_classes=80,
        num_labels=80,
        resolution=(800, 1333),
        config=config or stem,
        schedule=schedule,
        metrics=(box,) if mask_ap is None else (box, Metric("mask AP", mask_ap)),
        parameters=parameters_m * 10**6,
        gflops=gflops,
    )


def _objects365(
    stem: str,
    variant: str,
    dataset: str,
    classes: int,
    metrics: tuple[Metric, ...] = (),
    *,
    parameters_m: int | None = None,
    config: str | None = None,
    note: str | None = None,
) -> ReleasedCheckpoint:
    """DINO trained on Objects365, then on `dataset` if that is another one."""
    tuned = dataset != "Objects365"
    return ReleasedCheckpoint(
        name=stem,
        file=f"{stem}.pth",
        task="detection",
        method="dino",
        variant=variant,
        dataset=dataset,
        num_classes=classes,
        num_labels=classes,
        resolution=(1000, 2000) if tuned else None,
        config=config,
        pretraining="Objects365" if tuned else None,
        metrics=metrics,
        parameters=None if parameters_m is None else parameters_m * 10**6,
        note=note,
    )


def _segmenter(
    stem: str,
    method: str,
    variant: str,
    dataset: str,
    crop: int | tuple[int, int],
    schedule: str,
    mean_iou: tuple[float, float] | None,
    parameters_m: int,
    gflops: float,
    *,
    config: str | None = None,
    pretraining: str | None = None,
    note: str | None = None,
) -> ReleasedCheckpoint:
    """`mean_iou`: single-scale and multi-scale."""
    labels = _CLASSES[dataset]
    return ReleasedCheckpoint(
        name=stem,
        file=f"{stem}.pth",
        task="segmentation",
        method=method,
        variant=f"internimage_{variant}",
        dataset=dataset,
        num_classes=150 if labels == 19 and method != "mask2former" else labels,
        num_labels=labels,
        resolution=crop if isinstance(crop, tuple) else (crop, crop),
        config=config or stem,
        pretraining=pretraining,
        schedule=schedule,
        metrics=()
        if mean_iou is None
        else (Metric("mIoU", mean_iou[0]), Metric("mIoU", mean_iou[1], testing="multi-scale")),
        parameters=parameters_m * 10**6,
        gflops=gflops,
        note=note,
    )


# fmt: off
RELEASED: tuple[ReleasedCheckpoint, ...] = (
    _classifier("t", "in1k_224", "t_1k_224", "ImageNet-1K", 224, 29_918_424, acc1=83.5, gflops=5, hf_repo="t_1k_224"),
    _classifier("s", "in1k_224", "s_1k_224", "ImageNet-1K", 224, 50_079_880, acc1=84.2, gflops=8, hf_repo="s_1k_224"),
    _classifier("b", "in1k_224", "b_1k_224", "ImageNet-1K", 224, 97_461_832, acc1=84.9, gflops=16, hf_repo="b_1k_224"),
    _classifier("l", "22kto1k_384", "l_22kto1k_384", "ImageNet-1K", 384, 223_334_810, acc1=87.7, gflops=108,
                pretraining="ImageNet-22K", hf_repo="l_22kto1k_384"),
    _classifier("l", "22k_384", "l_22k_192to384", "ImageNet-22K", 384, 263_370_371, hf_repo="l_22k_384"),
    _classifier("xl", "22kto1k_384", "xl_22kto1k_384", "ImageNet-1K", 384, 334_819_780, acc1=88.0, gflops=163,
                pretraining="ImageNet-22K", hf_repo="xl_22kto1k_384"),
    _classifier("xl", "22k_384", "xl_22k_192to384", "ImageNet-22K", 384, 382_858_285, hf_repo="xl_22k_384"),
    _classifier("h", "22kto1k_640", "h_22kto1k_640", "ImageNet-1K", 640, 1_089_636_760, acc1=89.6, gflops=1478,
                pretraining=_JOINT_22K, hf_repo="h_22kto1k_640"),
    _classifier("h", "jointto22k_384", "h_jointto22k_384", "ImageNet-22K", 384, 1_105_663_489,
                pretraining=_JOINT, hf_repo="h_jointto22k_384"),
    _classifier("h", "22ktoinat18_384", "h_22ktoinat18_384", "iNaturalist 2018", 384, 1_096_197_516, acc1=92.6,
                pretraining=_JOINT_22K, note="with a branch for the date and place of the picture"),
    _classifier("g", "22kto1k_512", "g_22kto1k_512", "ImageNet-1K", 512, 3_076_373_352, acc1=90.1, gflops=2700,
                pretraining=_JOINT_22K, hf_repo="g_22kto1k_512"),
    _classifier("g", "jointto22k_384", "g_pretrainto22k_384", "ImageNet-22K", 384, 3_092_400_081,
                pretraining=_JOINT, hf_repo="g_jointto22k_384"),

    _coco("mask_rcnn_internimage_t_fpn_1x_coco", "mask_rcnn", "t", "1x", 47.2, 42.5, 49, 270),
    _coco("mask_rcnn_internimage_t_fpn_3x_coco", "mask_rcnn", "t", "3x", 49.1, 43.7, 49, 270),
    _coco("mask_rcnn_internimage_s_fpn_1x_coco", "mask_rcnn", "s", "1x", 47.8, 43.3, 69, 340),
    _coco("mask_rcnn_internimage_s_fpn_3x_coco", "mask_rcnn", "s", "3x", 49.7, 44.5, 69, 340),
    _coco("mask_rcnn_internimage_b_fpn_1x_coco", "mask_rcnn", "b", "1x", 48.8, 44.0, 115, 501),
    _coco("mask_rcnn_internimage_b_fpn_3x_coco", "mask_rcnn", "b", "3x", 50.3, 44.8, 115, 501),
    _coco("cascade_internimage_l_fpn_1x_coco", "cascade_mask_rcnn", "l", "1x", 54.9, 47.7, 277, 1399),
    _coco("cascade_internimage_l_fpn_3x_coco", "cascade_mask_rcnn", "l", "3x", 56.1, 48.5, 277, 1399),
    _coco("cascade_internimage_xl_fpn_1x_coco", "cascade_mask_rcnn", "xl", "1x", 55.3, 48.1, 387, 1782),
    _coco("cascade_internimage_xl_fpn_3x_coco", "cascade_mask_rcnn", "xl", "3x", 56.2, 48.8, 387, 1782),
    _coco("dino_4scale_internimage_t_1x_coco", "dino", "t", "1x", 53.9, None, 49,
          config="dino_4scale_internimage_t_1x_coco_layer_wise_lr"),
    _coco("dino_4scale_internimage_l_1x_coco_layer_wise_lr", "dino", "l", "1x", 57.5, None, 241),
    _coco("dino_4scale_internimage_l_1x_coco_0.1x_backbone_lr", "dino", "l", "1x", 57.6, None, 241),

    _objects365("dino_4scale_internimage_h_objects365_coco", "internimage_h", "COCO", 80, (Metric("box AP", 63.4),),
                parameters_m=1100, config="dino_4scale_internimage_h_objects365_coco_ss"),
    _objects365("dino_4scale_internimage_g_objects365_coco", "internimage_g", "COCO", 80, (Metric("box AP", 64.2),),
                parameters_m=3100, config="dino_4scale_internimage_g_objects365_coco_ss"),
    _objects365("dino_4scale_cbinternimage_h_objects365_coco", "cb_internimage_h", "COCO", 80,
                (Metric("box AP", 64.5),
                 Metric("box AP", 65.0, "test-time augmentation"),
                 Metric("box AP", 65.4, "test-time augmentation", split="test-dev")),
                parameters_m=2180, config="dino_4scale_cbinternimage_h_objects365_coco_ss"),
    _objects365("dino_4scale_cbinternimage_h_objects365_80classes", "cb_internimage_h", "Objects365", 80,
                note="where the runs with 80 classes start"),
    _objects365("dino_4scale_cbinternimage_h_objects365_20classes", "cb_internimage_h", "Objects365", 20,
                note="where the runs with 20 classes start"),
    _objects365("dino_4scale_cbinternimage_h_objects365_lvis", "cb_internimage_h", "LVIS", 1203,
                (Metric("box AP", 65.8, split="minival"),
                 Metric("box AP", 62.3),
                 Metric("box AP", 63.2, "multi-scale"))),
    _objects365("dino_4scale_cbinternimage_h_objects365_openimages", "cb_internimage_h", "OpenImages", 601,
                (Metric("mAP", 74.1),)),
    _objects365("dino_4scale_cbinternimage_h_objects365_voc0712", "cb_internimage_h", "Pascal VOC", 20,
                (Metric("mAP", 94.0, split="VOC07"), Metric("mAP", 97.2, split="VOC12"))),

    _segmenter("upernet_internimage_t_512_160k_ade20k", "upernet", "t", "ADE20K", 512, "160k", (47.9, 48.1), 59, 944),
    _segmenter("upernet_internimage_s_512_160k_ade20k", "upernet", "s", "ADE20K", 512, "160k", (50.1, 50.9), 80, 1017),
    _segmenter("upernet_internimage_b_512_160k_ade20k", "upernet", "b", "ADE20K", 512, "160k", (50.8, 51.3), 128, 1185),
    _segmenter("upernet_internimage_l_640_160k_ade20k", "upernet", "l", "ADE20K", 640, "160k", (53.9, 54.1), 256, 2526),
    _segmenter("upernet_internimage_xl_640_160k_ade20k", "upernet", "xl", "ADE20K",
               640, "160k", (55.0, 55.3), 368, 3142),
    _segmenter("upernet_internimage_h_896_160k_ade20k", "upernet", "h", "ADE20K",
               896, "160k", (59.9, 60.3), 1120, 3566),
    _segmenter("mask2former_internimage_h_896_80k_cocostuff2ade20k", "mask2former", "h", "ADE20K",
               896, "80k", (62.5, 62.9), 1310, 4635, pretraining="COCO-Stuff-164K",
               config="mask2former_internimage_h_896_80k_cocostuff2ade20k_ss",
               note="single-scale: another page of the release says 62.6"),
    _segmenter("upernet_internimage_t_512x1024_160k_cityscapes", "upernet", "t", "Cityscapes",
               (512, 1024), "160k", (82.58, 83.4), 59, 1889),
    _segmenter("upernet_internimage_s_512x1024_160k_cityscapes", "upernet", "s", "Cityscapes",
               (512, 1024), "160k", (82.74, 83.45), 80, 2035),
    _segmenter("upernet_internimage_b_512x1024_160k_cityscapes", "upernet", "b", "Cityscapes",
               (512, 1024), "160k", (83.18, 83.97), 128, 2369),
    _segmenter("upernet_internimage_l_512x1024_160k_cityscapes", "upernet", "l", "Cityscapes",
               (512, 1024), "160k", (83.68, 84.41), 256, 3234),
    _segmenter("upernet_internimage_xl_512x1024_160k_cityscapes", "upernet", "xl", "Cityscapes",
               (512, 1024), "160k", (83.62, 84.28), 368, 4022),
    _segmenter("upernet_internimage_l_512x1024_160k_mapillary2cityscapes", "upernet", "l", "Cityscapes",
               (512, 1024), "160k", (85.94, 86.22), 256, 3234, pretraining="Mapillary Vistas"),
    _segmenter("upernet_internimage_xl_512x1024_160k_mapillary2cityscapes", "upernet", "xl", "Cityscapes",
               (512, 1024), "160k", (86.2, 86.42), 368, 4022, pretraining="Mapillary Vistas"),
    _segmenter("segformer_internimage_l_512x1024_160k_mapillary2cityscapes", "segformer", "l", "Cityscapes",
               (512, 1024), "160k", (85.16, 85.67), 220, 1580, pretraining="Mapillary Vistas"),
    _segmenter("segformer_internimage_xl_512x1024_160k_mapillary2cityscapes", "segformer", "xl", "Cityscapes",
               (512, 1024), "160k", (85.41, 85.93), 330, 2364, pretraining="Mapillary Vistas"),
    _segmenter("mask2former_internimage_h_1024x1024_80k_mapillary2cityscapes", "mask2former", "h", "Cityscapes",
               1024, "80k", (86.37, 86.96), 1094, 7878, pretraining="Mapillary Vistas"),
    _segmenter("upernet_internimage_l_512x1024_80k_mapillary", "upernet", "l", "Mapillary Vistas",
               (512, 1024), "80k", None, 256, 3234),
    _segmenter("upernet_internimage_xl_512x1024_80k_mapillary", "upernet", "xl", "Mapillary Vistas",
               (512, 1024), "80k", None, 368, 4022),
    _segmenter("segformer_internimage_l_512x1024_80k_mapillary", "segformer", "l", "Mapillary Vistas",
               (512, 1024), "80k", None, 220, 1580),
    _segmenter("segformer_internimage_xl_512x1024_80k_mapillary", "segformer", "xl", "Mapillary Vistas",
               (512, 1024), "80k", None, 330, 2364),
    _segmenter("mask2former_internimage_h_896x896_80k_mapillary", "mask2former", "h", "Mapillary Vistas",
               896, "80k", None, 1094, 7878),
    _segmenter("mask2former_internimage_h_896_80k_cocostuff164k", "mask2former", "h", "COCO-Stuff-164K",
               896, "80k", (52.6, 52.8), 1310, 4635),
    _segmenter("mask2former_internimage_h_512_40k_cocostuff164k_to_10k", "mask2former", "h", "COCO-Stuff-10K",
               512, "40k", (59.2, 59.6), 1280, 1528, pretraining="COCO-Stuff-164K"),
    _segmenter("mask2former_internimage_h_480_40k_pascal_context_59", "mask2former", "h", "Pascal Context 59",
               480, "40k", (69.7, 70.3), 1070, 867),
    _segmenter("mask2former_internimage_h_480_40k_nyu", "mask2former", "h", "NYU Depth v2",
               480, "40k", (67.1, 68.1), 1070, 867),
)
# fmt: on


def find(
    pattern: str = "*", *, task: Task | None = None, variant: str | None = None, dataset: str | None = None
) -> tuple[ReleasedCheckpoint, ...]:
    """The released files that match everything given; `pattern` is a wildcard over names and file names."""
    return tuple(
        row
        for row in RELEASED
        if (fnmatchcase(row.name, pattern) or fnmatchcase(row.file, pattern))
        and task in (None, row.task)
        and variant in (None, row.variant)
        and dataset in (None, row.dataset)
    )


def get(name: str) -> ReleasedCheckpoint:
    """The released file of this name, file name, file stem, or the ImageNet-1K classifier of this variant.

    Raises:
        ValueError: there is none; the message lists the nearest names.
    """
    for row in RELEASED:
        if name in (row.name, row.file, row.file.removesuffix(".pth")):
            return row
    for row in RELEASED:
        if row.dataset == "ImageNet-1K" and row.variant == name:
            return row
    nearest = difflib.get_close_matches(name, [row.name for row in RELEASED], n=3, cutoff=0.4)
    hint = f"nearest: {', '.join(nearest)}; " if nearest else ""
    raise ValueError(f"no released checkpoint is called {name!r}; {hint}internimage.released.find() lists all")
