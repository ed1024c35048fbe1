"""`internimage plan`: what a run of pre-training would take: operations, memory, bytes to read, steps, time."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from internimage.tasks.pretraining.cost import Memory, StepCost, memory, step_cost
from internimage.tasks.pretraining.recipes import RECIPES, PretrainingRecipe
from internimage.tasks.training.recipe import read_recipe
from internimage.variants import VARIANTS

EXAMPLES = """examples:
  internimage plan --variant h --images 427e6 --epochs 30 --gpus 512 --type h100
  internimage plan --variant h --images 427e6 --epochs 30 --gpus 64 --type a100 --micro-batch 32
  internimage plan --recipe quick --variant atto --images 3068 --gpus 1 --type rtx4090 --json plan.json

Nothing is trained or allocated: a step is followed operation by operation on tensors without values, in half a minute
for H. The utilisation is what you expect to reach of the device's peak; measure it with a short run.
"""


@dataclass(frozen=True)
class Device:
    """A GPU, as its maker states it."""

    half_flops: float  # a second, bfloat16 or float16 without sparsity
    single_flops: float  # a second, float32 matrices (TensorFloat-32 where the device has it)
    memory: float  # bytes


# Data sheets of NVIDIA.
DEVICES = {
    "h100": Device(989e12, 495e12, 80e9),
    "h200": Device(989e12, 495e12, 141e9),
    "a100": Device(312e12, 156e12, 80e9),
    "a100-40gb": Device(312e12, 156e12, 40e9),
    "v100": Device(125e12, 15.7e12, 32e9),
    "rtx4090": Device(165e12, 83e12, 24e9),
}


@dataclass(frozen=True)
class Plan:
    """A run in numbers; times are seconds."""

    steps: int
    flops: float
    seconds: float
    images_per_second: float
    bytes_to_read: float
    memory: Memory
    memory_without_checkpoints: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe", default="internimage_h_joint_224", help=f"{', '.join(RECIPES)}, or a file (internimage_h_joint_224)"
    )
    parser.add_argument("--variant", help="another model than the recipe's: h, or a name of internimage.list_models()")
    parser.add_argument("--images", type=float, required=True, help="of the data set: 427e6")
    parser.add_argument("--epochs", type=float, help="passes over them (the recipe's)")
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--type", choices=DEVICES, default="h100", help="of the GPUs (h100)")
    parser.add_argument("--batch-size", type=int, help="images in a step (the recipe's)")
    parser.add_argument(
        "--micro-batch", type=int, help="images that a GPU computes at once (its share of a step); less: accumulated"
    )
    parser.add_argument("--image-size", type=int, help="side of the images, pixels (the recipe's)")
    parser.add_argument("--categories", type=int, default=1000, help="where they are a target (1000)")
    parser.add_argument("--utilisation", type=float, default=0.35, help="of the GPUs' peak (0.35)")
    parser.add_argument("--image-bytes", type=float, default=50e3, help="of a stored sample (50e3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; 1 where it doesn't fit into the devices."""
    for name in ("images", "gpus", "utilisation", "image_bytes", "categories"):
        if getattr(arguments, name) <= 0:
            raise ValueError(f"--{name.replace('_', '-')} must be above 0, got {getattr(arguments, name)}")
    recipe = _recipe(arguments)
    share, rest = divmod(recipe.batch_size, arguments.gpus)
    images = arguments.micro_batch or share
    if rest or images < 1 or share % images or images % recipe.mixed_images:
        raise ValueError(
            f"a batch of {recipe.batch_size} can't be shared by {arguments.gpus} GPUs that compute {images} images at "
            f"once, {recipe.mixed_images} a mixture; change --batch-size or --micro-batch"
        )
    device = DEVICES[arguments.type]
    cost = step_cost(recipe, images, categories=arguments.categories)
    plain = step_cost(replace(recipe, grad_checkpointing=False), images, categories=arguments.categories)
    epochs = arguments.epochs or recipe.epochs or recipe.total_steps(1) * recipe.batch_size / arguments.images
    result = plan(
        recipe,
        cost,
        plain,
        device,
        images_seen=arguments.images * epochs,
        gpus=arguments.gpus,
        utilisation=arguments.utilisation,
        image_bytes=arguments.image_bytes,
    )
    print("\n".join(_lines(recipe, cost, plain, result, arguments)))
    if arguments.json is not None:
        report = {"recipe": asdict(recipe), "cost": asdict(cost), **asdict(result), "total": result.memory.total}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    if result.memory.total > device.memory:
        print(f"does not fit into the {device.memory / 1e9:.0f} GB of a {arguments.type}: give a smaller --micro-batch")
        return 1
    return 0


def plan(
    recipe: PretrainingRecipe,
    cost: StepCost,
    plain: StepCost,
    device: Device,
    *,
    images_seen: float,
    gpus: int,
    utilisation: float,
    image_bytes: float,
) -> Plan:
    """The numbers of a run.

    Args:
        recipe: what to train.
        cost: of a part of a step on a device.
        plain: the same without checkpoints.
        device: the GPU.
        images_seen: in the whole run.
        gpus: how many.
        utilisation: of the device's peak, 0 to 1.
        image_bytes: of a stored sample.
    """
    flops = cost.flops / cost.images * images_seen
    peak = device.single_flops if recipe.precision == "float32" else device.half_flops
    seconds = flops / (gpus * peak * utilisation)
    return Plan(
        steps=int(images_seen // recipe.batch_size),
        flops=flops,
        seconds=seconds,
        images_per_second=images_seen / seconds,
        bytes_to_read=images_seen * image_bytes,
        memory=memory(cost, recipe, gpus),
        memory_without_checkpoints=memory(plain, recipe, gpus).total,
    )


def _recipe(arguments: argparse.Namespace) -> PretrainingRecipe:
    name = arguments.recipe
    if name not in RECIPES and not Path(name).is_file():
        raise ValueError(f"--recipe {name}: no such recipe or file; there are {', '.join(RECIPES)}")
    recipe = RECIPES[name] if name in RECIPES else read_recipe(PretrainingRecipe, Path(name))
    changes: dict[str, Any] = {}
    if arguments.variant:
        known = arguments.variant in VARIANTS
        changes["model"] = arguments.variant if known else f"internimage_{arguments.variant}"
    for option in ("batch_size", "image_size"):
        if getattr(arguments, option) is not None:
            changes[option] = getattr(arguments, option)
    return replace(recipe, **changes)


def _lines(
    recipe: PretrainingRecipe, cost: StepCost, plain: StepCost, result: Plan, arguments: argparse.Namespace
) -> list[str]:
    device = DEVICES[arguments.type]
    forward = ", ".join(f"{name} {flops / cost.images / 1e9:.1f}" for name, flops in cost.forward_flops.items())
    weights = ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in cost.parameters.items())
    share = recipe.batch_size // arguments.gpus
    lines = [
        f"{recipe.model} at {recipe.size} pixels, {arguments.gpus} x {arguments.type}, batch {recipe.batch_size}: "
        f"{share} images a GPU, {cost.images} at once",
        f"parameters     {weights}; momentum copy {cost.momentum_parameters / 1e6:.1f} M",
        f"forward        GFLOP an image: {forward}",
        f"training       {cost.flops / cost.images / 1e9:.1f} GFLOP an image"
        + (f" ({plain.flops / cost.images / 1e9:.1f} without checkpoints)" if recipe.grad_checkpointing else ""),
        f"run            {result.steps:,} steps, {result.flops:.3g} FLOP",
        f"time           {_duration(result.seconds)} at {arguments.utilisation:.0%} of the peak, "
        f"{result.images_per_second:,.0f} images/s, {result.seconds * arguments.gpus / 3600:,.0f} GPU hours",
        f"to read        {result.bytes_to_read / 1e12:,.2f} TB, "
        f"{result.bytes_to_read / result.seconds / 1e9:,.2f} GB/s over all hosts",
        "memory         GB a GPU",
    ]
    lines += [f"  {name:<13}{size / 1e9:9.3f}" for name, size in vars(result.memory).items()]
    lines.append(f"  {'together':<13}{result.memory.total / 1e9:9.3f}  of {device.memory / 1e9:.0f}")
    if recipe.grad_checkpointing:
        lines.append(f"  {'without checkpoints':<22}{result.memory_without_checkpoints / 1e9:.3f}")
    return lines


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} seconds"
