"""The operators, each with a pure PyTorch definition, a C++ CPU kernel and a CUDA kernel."""

from internimage.ops.backend import get_backend, use_backend
from internimage.ops.dcnv3 import dcnv3
from internimage.ops.ms_deform_attn import multi_scale_deformable_attention
from internimage.ops.nms import batched_nms, nms, nms_mask
from internimage.ops.roi_align import roi_align

__all__ = [
    "batched_nms",
    "dcnv3",
    "get_backend",
    "multi_scale_deformable_attention",
    "nms",
    "nms_mask",
    "roi_align",
    "use_backend",
]
