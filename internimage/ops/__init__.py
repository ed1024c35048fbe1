"""The operators, each with a pure PyTorch definition, a C++ CPU kernel and a CUDA kernel."""

from internimage.ops.backend import get_backend, use_backend
from internimage.ops.dcnv3 import dcnv3
from internimage.ops.ms_deform_attn import multi_scale_deformable_attention

__all__ = ["dcnv3", "get_backend", "multi_scale_deformable_attention", "use_backend"]
