"""Where one view of a picture lies in another."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from internimage.tasks.augment import View


def relative_view(source: View, target: View) -> NDArray[np.float32]:
    """The place of a target view as its source sees it.

    Returns:
        [2, 2]: for rows, then columns, the numbers a and b of place in source = a + b * place in target. Places go from
        0 to 1 in each view; b is negative where one of them is flipped.
    """
    relative = [
        ((target_start - start) / length, target_length / length)
        for (start, length), (target_start, target_length) in zip(_lines(source), _lines(target), strict=True)
    ]
    return np.array(relative, np.float32)


def _lines(view: View) -> tuple[tuple[float, float], tuple[float, float]]:
    """Of rows and of columns, where a view starts in its picture and how far it goes: backwards where it is flipped."""
    crop = view.crop
    columns = (crop.left + crop.width, -crop.width) if view.flipped else (crop.left, crop.width)
    return (crop.top, crop.height), columns


def cell_places(rows: int, columns: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[rows * columns, 2], row by row, the middle of each cell of a map as (y, x) from 0 to 1."""
    y = (torch.arange(rows, device=device, dtype=dtype) + 0.5) / rows
    x = (torch.arange(columns, device=device, dtype=dtype) + 0.5) / columns
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1)


def seen_from_source(places: Tensor, relative: Tensor) -> Tensor:
    """Places [N, n, 2] in target views -> the same places in their source views, by `relative_view` [N, 2, 2]."""
    return relative[:, None, :, 0] + relative[:, None, :, 1] * places
