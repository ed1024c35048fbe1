"""`internimage predict detection`: the objects of pictures and videos, as JSON and drawn."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from internimage.tasks.detection.class_names import Classes
from internimage.tasks.detection.coco_format import text_mask, to_xywh
from internimage.tasks.detection.objects import Found
from internimage.tasks.detection.pictures import frame_picture, prediction_picture
from internimage.tasks.detection.trained import Trained, add_model_arguments, load_from_arguments
from internimage.tasks.devices import add_device_argument, choose_device
from internimage.tasks.images import SUFFIXES, ImageError, read_image, write_image
from internimage.tasks.picture_files import find_images, prediction_paths
from internimage.tasks.videos import VIDEO_SUFFIXES, VideoError, new_video, open_video
from internimage.weight_files import written_whole

EXAMPLES = """examples:
  internimage predict detection street.jpg                          released weights, downloaded on first use
  internimage predict detection photos/ --checkpoint runs/cells --output detected
  internimage predict detection drive.mp4 --model cascade_internimage_xl_fpn_3x_coco --threshold 0.5
  internimage predict detection "photos/*.jpg" --checkpoint runs/cells --scales 0.75 1 1.25 --flip
  internimage predict detection photos/ --checkpoint runs/cells --json > objects.json

Of photo.jpg, the output folder gets photo.png (to look at) and photo.json; of drive.mp4, drive.mp4 and drive.json.
JSON holds what is below the threshold, too: class, score, box as x, y, width, height in pixels, and mask in COCO's
format.
"""

_PROGRESS_FROM = 20  # pictures
_NAMED = 5  # classes in a line of text

Content = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="pictures, videos, folders of them, or wildcards")
    add_model_arguments(parser)
    parser.add_argument(
        "--output", type=Path, metavar="DIR", default=Path("detected"), help="where to write (detected)"
    )
    parser.add_argument("--threshold", type=float, default=0.3, help="least score of what is drawn and named (0.3)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    add_device_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Find the objects; files that can't be read are reported, and make the exit status 1."""
    if not 0 <= arguments.threshold <= 1:
        raise ValueError(f"--threshold must be from 0 to 1, got {arguments.threshold}")
    device = choose_device(arguments.device)
    paths = find_images(arguments.files, SUFFIXES | VIDEO_SUFFIXES)
    trained = load_from_arguments(arguments, device)
    targets = prediction_paths(paths, arguments.output)
    contents: list[Content] = []
    for path in tqdm(paths, unit="file", disable=len(paths) < _PROGRESS_FROM or None, file=sys.stderr):
        predict = _predict_video if Path(path).suffix.lower() in VIDEO_SUFFIXES else _predict_picture
        try:
            content = predict(path, targets[path], trained, arguments.threshold)
        except (ImageError, VideoError) as error:
            tqdm.write(f"internimage: {error}", file=sys.stderr)
            continue
        with written_whole(targets[path].with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(content) + "\n")
        contents.append(content)
        if not arguments.json:
            tqdm.write(_as_text(content, arguments.threshold))
    if arguments.json:
        print(json.dumps(contents))
    elif contents:
        print(f"pictures and JSON are in {arguments.output}", file=sys.stderr)
    failed = len(paths) - len(contents)
    if failed:
        print(f"{failed} of {len(paths)} files could not be read", file=sys.stderr)
    return 1 if failed else 0


def _predict_picture(path: str, target: Path, trained: Trained, threshold: float) -> Content:
    image = read_image(path)
    found = trained.predict(image)
    write_image(target, prediction_picture(image, found, trained.classes.names, threshold=threshold))
    height, width = image.shape[:2]
    return {"file": path, "height": height, "width": width, "objects": _objects(found, trained.classes)}


def _predict_video(path: str, target: Path, trained: Trained, threshold: float) -> Content:
    frames: list[list[Content]] = []
    content: Content = {"file": path}
    with open_video(path) as (info, images), new_video(target.with_suffix(".mp4"), info.rate) as video:
        bar = tqdm(images, desc=Path(path).name, total=info.frames or None, unit="frame", leave=False, disable=None)
        for image in bar:
            found = trained.predict(image)
            video.write(frame_picture(image, found, trained.classes.names, threshold=threshold))
            frames.append(_objects(found, trained.classes))
            content |= {"height": image.shape[0], "width": image.shape[1]}
        return content | {"frames_per_second": info.rate, "frames": frames}


def _objects(found: Found, classes: Classes) -> list[Content]:
    entries: list[Content] = [
        {"name": classes.names[label], "category_id": classes.category_ids[label], "score": score, "bbox": box}
        for label, score, box in zip(
            found.labels.tolist(), found.scores.tolist(), to_xywh(found.boxes).tolist(), strict=True
        )
    ]
    for entry, mask in zip(entries, found.masks or (), strict=found.masks is not None):
        entry["segmentation"] = text_mask(mask)
    return entries


def _as_text(content: Content, threshold: float) -> str:
    frames = content.get("frames", [content.get("objects", [])])
    counts = Counter(entry["name"] for objects in frames for entry in objects if entry["score"] >= threshold)
    what = f"{len(frames)} frames, " if "frames" in content else ""
    rows = [f"  {number:7d}  {name}" for name, number in counts.most_common(_NAMED)]
    more = [f"           and {len(counts) - _NAMED} more classes"] if len(counts) > _NAMED else []
    return "\n".join([f"{content['file']}: {what}{counts.total()} objects", *rows, *more])
