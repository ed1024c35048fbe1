"""The operators' schemas: the one place that says what `torch.ops.internimage` holds.

They are defined from Python when this module is imported, so that exported programs load on machines without a
compiler. A library built for processes without Python carries the same text (`build_library(standalone=True)`).
"""

import torch

# Raise it with every change of meaning: it is an argument of each call, so caches of compiled graphs miss, and a
# package that was compiled for another version is refused by the kernels.
SCHEMA_VERSION = 1

_DCNV3_ARGUMENTS = (
    "Tensor input, Tensor offset, Tensor mask, int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, "
    "int groups, float offset_scale, bool remove_center, bool softmax"
)

_MS_DEFORM_ATTN_ARGUMENTS = "Tensor value, Tensor sampling_locations, Tensor attention_weights, SymInt[] spatial_shapes"

_ROI_ALIGN_ARGUMENTS = (
    "Tensor input, Tensor rois, int[2] output_size, float spatial_scale, int sampling_ratio, bool aligned"
)

SCHEMAS: dict[str, str] = {
    "dcnv3": f"dcnv3({_DCNV3_ARGUMENTS}, int version) -> Tensor",
    "dcnv3_backward": (
        f"dcnv3_backward(Tensor grad_output, {_DCNV3_ARGUMENTS}, bool deterministic, int version) "
        "-> (Tensor, Tensor, Tensor)"
    ),
    "ms_deform_attn": f"ms_deform_attn({_MS_DEFORM_ATTN_ARGUMENTS}, int version) -> Tensor",
    "ms_deform_attn_backward": (
        f"ms_deform_attn_backward(Tensor grad_output, {_MS_DEFORM_ATTN_ARGUMENTS}, bool deterministic, int version) "
        "-> (Tensor, Tensor, Tensor)"
    ),
    "roi_align": f"roi_align({_ROI_ALIGN_ARGUMENTS}, int version) -> Tensor",
    "roi_align_backward": (
        f"roi_align_backward(Tensor grad_output, {_ROI_ALIGN_ARGUMENTS}, bool deterministic, int version) -> Tensor"
    ),
    "nms": "nms(Tensor boxes, Tensor groups, float iou_threshold, int version) -> Tensor",
    "fused_convolution": (
        "fused_convolution(Tensor input, Tensor weight, Tensor bias, Tensor? norm, Tensor? residual, int kernel_size, "
        "int stride, bool gelu, float eps, int version) -> Tensor"
    ),
    "fused_mlp": (
        "fused_mlp(Tensor input, Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2, Tensor? input_norm, "
        "Tensor? output_norm, float eps, int version) -> Tensor"
    ),
    "fused_depthwise": (
        "fused_depthwise(Tensor input, Tensor weight, Tensor bias, Tensor norm, int kernel_size, float eps, "
        "int version) -> Tensor"
    ),
}

library = torch.library.Library("internimage", "FRAGMENT")  # type: ignore[no-untyped-call]
for _schema in SCHEMAS.values():
    library.define(_schema)  # type: ignore[no-untyped-call]


def check_version(version: int) -> None:
    """
    Raises:
        RuntimeError: a program calls another version of the operators.
    """
    if version != SCHEMA_VERSION:
        raise RuntimeError(
            f"internimage: this program was made for version {version} of the operators, this library has version "
            f"{SCHEMA_VERSION}; export it again"
        )
