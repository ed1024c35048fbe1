"""Object detection and instance segmentation on InternImage: Mask R-CNN, Cascade Mask R-CNN and DINO."""

from internimage.tasks.detection.configs import list_detectors
from internimage.tasks.detection.detections import FixedSizeDetector
from internimage.tasks.detection.dino import DINO, CompositeDINO
from internimage.tasks.detection.mask_rcnn import MaskRCNN
from internimage.tasks.detection.models import create_detector

__all__ = ["DINO", "CompositeDINO", "FixedSizeDetector", "MaskRCNN", "create_detector", "list_detectors"]
