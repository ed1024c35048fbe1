"""Detection and instance segmentation: Mask R-CNN and Cascade Mask R-CNN on InternImage."""

from internimage.tasks.detection.configs import list_detectors
from internimage.tasks.detection.mask_rcnn import FixedSizeDetector, MaskRCNN
from internimage.tasks.detection.models import create_detector

__all__ = ["FixedSizeDetector", "MaskRCNN", "create_detector", "list_detectors"]
