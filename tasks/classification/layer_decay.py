"""Learning rates that fall from layer to layer towards the image (arXiv 2106.08254), by the official rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_BLOCK = re.compile(r"stages\.(\d)\.blocks\.(\d+)\.")
_BETWEEN = re.compile(r"stages\.([012])\.(?:downsample|norm)\.")
_OFFSETS = re.compile(r"\.dcn\.(?:offset|center_scale)\.")


def layer_decay_scale(depths: Sequence[int], decay: float, offset_scale: float = 1.0) -> Callable[[str], float]:
    """Name of a parameter -> factor of its learning rate: decay^(blocks that follow).

    The stem goes with the first block, the norm and downsampling of a stage with the first block of the next one. The
    heads, the norm of the last stage and, as in the official training, the level-2 norms keep the full learning rate.

    Args:
        depths: blocks of the four stages.
        decay: factor from a block to the one before it.
        offset_scale: additional factor for DCNv3's offsets and centre scales, but not its masks, as in the official
            training.
    """
    first_block = [sum(depths[:stage]) for stage in range(4)]
    total = sum(depths)

    def scale(name: str) -> float:
        factor = offset_scale if _OFFSETS.search(name) else 1.0
        if match := _BLOCK.match(name):
            block = first_block[int(match[1])] + int(match[2])
        elif match := _BETWEEN.match(name):
            block = first_block[int(match[1]) + 1]
        elif name.startswith("stem."):
            block = 0
        else:
            return factor
        return factor * decay ** (total - 1 - block)

    return scale
