"""Semantic segmentation: UperNet, SegFormer's head and Mask2Former on InternImage."""

from internimage.tasks.segmentation.configs import list_segmentors
from internimage.tasks.segmentation.models import create_segmentor
from internimage.tasks.segmentation.segmentor import Segmentor

__all__ = ["Segmentor", "create_segmentor", "list_segmentors"]
