"""`python -m internimage.tasks.run_package PACKAGE IMAGES DEVICE BATCH_SIZE`: classify with nothing but a package.

IMAGES is an .npz file with an array `images`. Each line on standard input is answered by a line of JSON: the labels of
all images, and the seconds that it took. The demo runs it to compare a package with the model that it was made of.
"""

import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from internimage.deploy import load_package


def classify(model: Callable[[Tensor], Tensor], images: Tensor, batch_size: int) -> tuple[list[int], float]:
    """The labels of images, computed batch by batch, and the seconds that it took."""
    start = time.perf_counter()
    with torch.no_grad():
        # Moving the labels to the CPU waits for the device.
        labels = [label for batch in torch.split(images, batch_size) for label in model(batch).argmax(1).cpu().tolist()]
    return labels, time.perf_counter() - start


def main() -> None:
    path, data, device, batch_size = sys.argv[1:]
    model = load_package(path)
    with np.load(data) as arrays:
        images = torch.from_numpy(arrays["images"]).to(device)
    for _ in sys.stdin:
        labels, seconds = classify(model, images, int(batch_size))
        print(json.dumps({"labels": labels, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
