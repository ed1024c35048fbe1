"""From a model to a graph of operators, with torch.export."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from internimage.ops.schema import SCHEMAS

Range = tuple[int, int]  # least and greatest size, both included

_OPERATORS = frozenset(f"internimage.{name}.default" for name in SCHEMAS)


def export(
    model: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    *,
    batch: Range | None = (1, 64),
    height: Range | None = None,
    width: Range | None = None,
) -> ExportedProgram:
    """Trace an image model into a graph of operators, with sizes left free within ranges.

    Where the native kernels are available the graph calls the operator; otherwise it holds its PyTorch definition.

    Args:
        model: image [N, C, H, W] -> anything; in evaluation mode.
        example: an image batch of any values, on the model's device; for a model of more inputs all of them, the image
            first, the others with N in front.
        batch: least and greatest N; None fixes it to the example's.
        height: the same for H.
        width: the same for W.

    Raises:
        ValueError: the model is in training mode, the example has not four dimensions, or a range is empty or leaves
            the example's height or width out, or holds sizes that need another graph, such as those whose last map has
            one pixel.
    """
    if model.training:
        raise ValueError("export: the model is in training mode, expected evaluation mode; call model.eval() first")
    image, *others = (example,) if isinstance(example, Tensor) else example
    if image.ndim != 4:
        raise ValueError(f"export: expected an example [N, C, H, W], got shape {list(image.shape)}")
    dimensions: dict[int, Dim] = {}
    for axis, name, sizes in ((0, "batch", batch), (2, "height", height), (3, "width", width)):
        if sizes is None or sizes[0] == sizes[1] == image.shape[axis]:
            continue
        if not 1 <= sizes[0] < sizes[1] or (axis and not sizes[0] <= image.shape[axis] <= sizes[1]):
            raise ValueError(
                f"export: {name} must be a range (least, greatest) of sizes from 1 that holds the example's "
                f"{image.shape[axis]}, got {sizes}"
            )
        dimensions[axis] = Dim(name, min=sizes[0], max=sizes[1])
    examples = [image, *others]
    shared = {0: dimensions[0]} if 0 in dimensions else {}
    if shared:  # a size of 1 would be taken for a constant
        count = max(2, dimensions[0].min)
        examples = [x[:1].expand(count, *(-1 for _ in x.shape[1:])).contiguous() for x in examples]
    try:
        with torch.no_grad():
            return torch.export.export(model, tuple(examples), dynamic_shapes=(dimensions, *(shared for _ in others)))
    except torch._dynamo.exc.UserError as error:
        names = re.findall(r"Not all values of (\w+)", str(error))
        if not names:
            raise
        limits = re.findall(r"(\w+) = Dim\('\w+', min=(\d+), max=(\d+)\)", str(error))
        fitting = " and ".join(f"{name} from {least} to {most}" for name, least, most in limits)
        raise ValueError(
            f"export: the model is not the same graph for all sizes of {' and '.join(names)}; take "
            f"{fitting or 'a greater least size'} (maps of one pixel are a case of their own)"
        ) from error


def operators_of(program: ExportedProgram) -> list[str]:
    """Names of the operators of this library that an exported program calls, such as "internimage.dcnv3.default"."""
    return sorted({str(node.target) for node in program.graph.nodes} & _OPERATORS)
