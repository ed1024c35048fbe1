"""Small data sets of detection as files."""

import json
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np


def put(root: Path, files: Mapping[str, object]) -> Path:
    """Write files: text, bytes, a size as a picture of noise, an array as a picture, or anything else as JSON."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, tuple):
            content = np.random.default_rng(0).integers(0, 256, (*content, 3), dtype=np.uint8)
        if isinstance(content, str | bytes):
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        elif isinstance(content, np.ndarray):
            assert cv2.imwrite(str(path), content)
        else:
            path.write_text(json.dumps(content))
    return root


def image(number, name, size=(40, 60), **extra):
    return {"id": number, "file_name": name, "height": size[0], "width": size[1], **extra}


def annotation(image_id, box=(5, 6, 20, 10), category_id=1, **extra):
    return {"id": 0, "image_id": image_id, "category_id": category_id, "bbox": list(box), "iscrowd": 0, **extra}


def coco(images, annotations, categories=(1,)):
    categories = [{"id": number, "name": f"class {number}"} for number in categories]
    return {"images": images, "annotations": annotations, "categories": categories}
