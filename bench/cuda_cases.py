"""What the CUDA kernels are tested with: every path of the launchers, odd sizes, all options."""

from typing import Any

DCNV3: dict[str, dict[str, Any]] = {
    "3x3": {"group_channels": 16},
    "3x3 softmax": {"group_channels": 16, "softmax": True},
    "3x3 no centre": {"group_channels": 16, "groups": 3, "remove_center": True, "offset_scale": 2.0},
    "3x3 no centre, softmax": {"group_channels": 8, "remove_center": True, "softmax": True},
    "1 channel": {"group_channels": 1, "groups": 5, "softmax": True},
    "3 channels": {"group_channels": 3, "stride": (2, 1)},
    "5 channels": {"group_channels": 5, "remove_center": True},
    "17 channels": {"group_channels": 17, "groups": 1, "softmax": True},
    "6 channels": {"group_channels": 6, "dilation": (2, 1), "padding": (2, 1)},
    "12 channels": {"group_channels": 12, "stride": (2, 3), "padding": (0, 2)},
    "5x3 dilated": {"kernel_size": (5, 3), "dilation": (1, 2), "padding": (2, 2)},
    "2x4 even": {"kernel_size": (2, 4), "dilation": (3, 1), "padding": (1, 2), "softmax": True},
    "5x5 no centre": {
        "group_channels": 2,
        "kernel_size": (5, 5),
        "padding": (2, 2),
        "remove_center": True,
        "offset_scale": 0.7,
    },
    "1x1": {"kernel_size": (1, 1), "padding": (0, 0)},
    "1 pixel": {"n": 3, "size": (1, 1), "softmax": True},
    "no padding": {"n": 1, "size": (3, 9), "padding": (0, 0)},
    "far outside": {"spread": 5.0, "offset_scale": 2.0},
}

ROI_ALIGN: dict[str, dict[str, Any]] = {
    "adaptive": {},
    "not aligned": {"aligned": False},
    "3 samples": {"sampling_ratio": 3},
    "far outside": {"largest": 4.0},
    "1 pixel": {"size": (1, 1)},
    "1 channel": {"channels": 1, "output_size": (7, 7)},
    "1 bin": {"output_size": (1, 1), "n": 1},
    "odd scale": {"spatial_scale": 0.3, "size": (11, 5)},
}
ATTENTION: dict[str, dict[str, Any]] = {
    "two levels": {},
    "32 channels": {"channels": 32, "heads": 8},
    "5 channels": {"channels": 5, "points": 3},
    "1 level": {"shapes": ((1, 6),), "n": 1, "queries": 1},
}
NMS: dict[str, dict[str, Any]] = {
    "five levels": {},
    "one level": {"groups": 1, "iou_threshold": 0.5},
    "1 box": {"count": 1},
    "1000 boxes": {"count": 1000, "iou_threshold": 0.3},
}
