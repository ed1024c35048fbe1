"""Learning rates that fall from layer to layer towards the image, as in the official detectors and segmentors."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

_BLOCK = re.compile(r"backbone\.stages\.(\d)\.blocks\.(\d+)\.")
_LEVEL2_NORM = re.compile(r"backbone\.stages\.2\.level2_norms\.(\d+)\.")
_AFTER_BLOCKS = re.compile(r"backbone\.stages\.(\d)\.(?:norm|downsample)\.")


def dense_layer_decay_scale(
    depths: Sequence[int], decay: float, lowest: Collection[str] = ()
) -> Callable[[str], float]:
    """Name of a parameter -> factor of its learning rate: decay^(layers between it and the head).

    The stem is layer 0 and the blocks follow, numbered through the stages; the norm and downsampling of a stage go
    with the first block of the next one, the norm of the last stage with its own first block. As in the official
    training, level-2 norm number m goes with block m of the third stage, not with the one that it follows. All else
    is above the last block.

    Args:
        depths: blocks of the four stages.
        decay: factor from a layer to the one before it.
        lowest: beginnings of the names of parameters outside the backbone that go with the stem.
    """
    first = [1 + sum(depths[:stage]) for stage in range(4)]  # layer of each stage's first block
    top = sum(depths) + 1

    def layer(name: str) -> int:
        if name.startswith(("backbone.stem.", *lowest)):
            return 0
        if match := _BLOCK.match(name):
            return first[int(match[1])] + int(match[2])
        if match := _LEVEL2_NORM.match(name):
            return first[2] + int(match[1])
        if match := _AFTER_BLOCKS.match(name):
            return first[min(int(match[1]) + 1, 3)]
        return top

    return lambda name: decay ** (top - layer(name))
