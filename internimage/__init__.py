"""InternImage (CVPR 2023) and its operator DCNv3: every device, every official checkpoint, compiled and deployable."""

from internimage._version import __version__
from internimage.backbone import InternImage
from internimage.checkpoint import load_checkpoint, save_checkpoint
from internimage.composite import CompositeInternImage
from internimage.inference import prepare_for_inference
from internimage.models import create_model, list_models

__all__ = [
    "CompositeInternImage",
    "InternImage",
    "__version__",
    "create_model",
    "list_models",
    "load_checkpoint",
    "prepare_for_inference",
    "save_checkpoint",
]
