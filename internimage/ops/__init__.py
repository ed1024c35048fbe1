"""The operators, each with a pure PyTorch definition, a C++ CPU kernel and a CUDA kernel."""

from internimage.ops.backend import get_backend, use_backend
from internimage.ops.dcnv3 import dcnv3

__all__ = ["dcnv3", "get_backend", "use_backend"]
