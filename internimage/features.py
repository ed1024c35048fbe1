"""What timm calls feature info: the stage maps that a backbone offers, and how to choose among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


class FeatureInfo(list[dict[str, Any]]):
    """One dict a stage, with its `num_chs`, `reduction` (stride in pixels) and `module`; plus timm's accessors.

    Args:
        stages: the dicts.
        out_indices: the stages that the accessors tell of when they are asked for none in particular.
    """

    def __init__(self, stages: Iterable[dict[str, Any]], out_indices: Sequence[int] | None = None) -> None:
        super().__init__(stages)
        self.out_indices = tuple(range(len(self)) if out_indices is None else out_indices)

    def channels(self, index: int | Sequence[int] | None = None) -> Any:
        """Width of the map `index`, or the list of those of several."""
        return self._get("num_chs", index)

    def reduction(self, index: int | Sequence[int] | None = None) -> Any:
        """Stride of the map `index` in pixels of the image, or the list of those of several."""
        return self._get("reduction", index)

    def module_name(self, index: int | Sequence[int] | None = None) -> Any:
        """Name of the module whose output is the map `index`, or the list of those of several."""
        return self._get("module", index)

    def _get(self, key: str, index: int | Sequence[int] | None) -> Any:
        if isinstance(index, int):
            return self[index][key]
        return [self[i][key] for i in (self.out_indices if index is None else index)]


def select_indices(indices: int | Sequence[int] | None, count: int) -> list[int]:
    """Which of `count` stages: None for all, n for the last n, or a list in which negatives count from the end.

    Raises:
        ValueError: an index out of range, or none at all.
    """
    if indices is None:
        return list(range(count))
    if isinstance(indices, int):
        indices = range(count - indices, count)
    if not indices or not all(-count <= i < count for i in indices):
        raise ValueError(f"there are {count} stages, so indices lie in {-count}..{count - 1}; got {list(indices)}")
    return [i % count for i in indices]
