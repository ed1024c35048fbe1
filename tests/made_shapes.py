"""A data set of detection that is made on the spot: discs and squares on noise, in COCO's format."""

import json
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_tools

NAMES = ("disc", "square")
CATEGORY_IDS = (3, 8)
COLOURS = ((200, 60, 40), (40, 90, 210))


def scene(rng: np.random.Generator, height: int = 80, width: int = 112) -> tuple[np.ndarray, list[dict]]:
    """A picture, RGB, and the objects in it: "label", "mask" [H, W]. Objects don't touch."""
    image = rng.normal(120, 15, (height, width, 3))
    objects: list[dict] = []
    for column in rng.permutation(3)[: rng.integers(1, 4)]:
        label, radius = int(rng.integers(2)), int(rng.integers(9, 17))
        centre = (column * 37 + 18, int(rng.integers(radius + 1, height - radius - 1)))
        mask = np.zeros((height, width), np.uint8)
        if label:
            cv2.rectangle(
                mask, (centre[0] - radius, centre[1] - radius), (centre[0] + radius, centre[1] + radius), 1, -1
            )
        else:
            cv2.circle(mask, centre, radius, 1, -1)
        image[mask > 0] = COLOURS[label] + rng.normal(0, 12, (int(mask.sum()), 3))
        objects.append({"label": label, "mask": mask})
    return image.clip(0, 255).astype(np.uint8), objects


def make_shapes(folder: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """Write so many pictures for each split into a folder."""
    rng = np.random.default_rng(seed)
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    for split, count in counts.items():
        images, annotations = [], []
        for number in range(count):
            image, objects = scene(rng)
            name = f"{split}{number}.png"
            cv2.imwrite(str(folder / "images" / name), image[..., ::-1])
            images.append({"id": number, "file_name": name, "height": image.shape[0], "width": image.shape[1]})
            for shape in objects:
                rle = mask_tools.encode(np.asfortranarray(shape["mask"]))
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": CATEGORY_IDS[shape["label"]],
                        "bbox": mask_tools.toBbox(rle).tolist(),
                        "area": float(mask_tools.area(rle)),
                        "iscrowd": 0,
                        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                    }
                )
        categories = [{"id": key, "name": name} for key, name in zip(CATEGORY_IDS, NAMES, strict=True)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder
