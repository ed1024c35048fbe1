"""Small made pictures with texts and categories in tar shards, and a small model, for tests of pre-training."""

import io
import json
import warnings

import cv2
import numpy as np
import torch
import torch.distributed as dist
from torch import multiprocessing

from internimage.tasks.pretraining import train as command
from internimage.tasks.pretraining.loading import collate
from internimage.tasks.pretraining.recipes import PretrainingRecipe
from internimage.tasks.training.distributed import Processes
from internimage.tasks.training.shards import write_shards
from internimage.variants import VARIANTS, Variant

COLOURS = {"blue": (30, 60, 200), "green": (40, 180, 60), "red": (210, 40, 30)}
ALONE = Processes(torch.device("cpu"))
TINY = {
    "test_conv": Variant(channels=8, depths=(1, 1, 1, 1), group_width=8, drop_path_rate=0.0),
    # The eighth of H in width, with all that H has.
    "test_h": Variant(**{**vars(VARIANTS["internimage_h"]), "channels": 40, "group_width": 8, "drop_path_rate": 0.0}),
}


def picture(colour, rng, side=72):
    """A disc of the colour somewhere on noise, as PNG."""
    image = rng.integers(0, 255, (side, side + 8, 3), np.uint8)
    centre = tuple(int(number) for number in rng.integers(20, side - 20, 2))
    cv2.circle(image, centre, 18, COLOURS[colour][::-1], -1)
    return cv2.imencode(".png", image)[1].tobytes()


def embedding(name):
    buffer = io.BytesIO()
    np.save(buffer, np.random.default_rng(list(COLOURS).index(name)).normal(size=64).astype(np.float16))
    return buffer.getvalue()


def samples(count, members=("png", "txt", "cls", "emb"), seed=0):
    rng = np.random.default_rng(seed)
    for number in range(count):
        name = list(COLOURS)[number % 3]
        whole = {
            "png": picture(name, rng),
            "txt": f"a photo of something {name}".encode(),
            "cls": name.encode(),
            "emb": embedding(name),
        }
        yield f"{number:04d}", {extension: whole[extension] for extension in members}


def write_data(folder, train=24, val=12):
    folder.mkdir(parents=True, exist_ok=True)
    write_shards(samples(train), folder / "train-%03d.tar", samples_per_shard=10)
    write_shards(samples(val, seed=1), folder / "val-%03d.tar", samples_per_shard=20)
    return folder


def rows(output):
    """Of a run's log."""
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def recipe(**values):
    """Of all three targets, for the smallest model."""
    return PretrainingRecipe(
        **{
            "model": "test_conv",
            "image_size": 64,
            "mixed_images": 2,
            "dense_weight": 1.0,
            "text_weight": 1.0,
            "category_weight": 1.0,
            "decoder_width": 64,
            "decoder_layers": 1,
            "text_channels": 64,
            "text_width": 64,
            "text_layers": 1,
            "text_length": 12,
            "vocabulary": 300,
            "steps": 2,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "crop_scale": (0.5, 1.0),
            "rand_augment": "",
            "sync_batch_norm": True,
            "workers": 0,
            "log_steps": 1,
            "eval_steps": 2,
            "compile": "off",
        }
        | values
    )


def _double(items, images):
    """Of the batch of `collate` what is float32, in float64."""
    batch = collate(items, images=images)
    return {name: part.double() if is_float(part) else part for name, part in batch.items()}


def is_float(part):
    return isinstance(part, torch.Tensor) and part.is_floating_point()


def _train(chosen, data, output, processes):
    """In float64, so that what remains as a difference is no rounding that Adam has blown up."""
    torch.set_default_dtype(torch.float64)
    kept, command.collate = command.collate, _double
    try:
        command.train(chosen, data, output, processes)
    finally:
        torch.set_default_dtype(torch.float32)
        command.collate = kept


def _process(rank, world_size, place, chosen, data, output):
    warnings.simplefilter("ignore")  # torch's own, of DistributedDataParallel
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{place}", rank=rank, world_size=world_size)
    _train(chosen, data, output, Processes(torch.device("cpu"), rank, world_size))
    dist.barrier()
    dist.destroy_process_group()


def train_in_processes(count, chosen, data, output):
    """Train in as many forks of this process; alone in this one, which saves the forks their imports."""
    if count == 1:
        return _train(chosen, data, output, ALONE)
    place = output.with_suffix(f".store{count}")
    return multiprocessing.start_processes(_process, (count, place, chosen, data, output), count, start_method="fork")
