"""The paper's stacking and scaling rules: four numbers and an exponent give the shape of a whole model."""

from __future__ import annotations

from dataclasses import dataclass

DEPTH_FACTOR = 1.09  # alpha, growth of the total depth with each step of phi
WIDTH_FACTOR = 1.36  # beta, growth of the width; alpha * beta^1.99 = 2, so a step doubles the cost


@dataclass(frozen=True)
class Stacking:
    """The four free numbers of a model (InternImage, section 3.2, "stacking rules").

    Width doubles from stage to stage, every group has `group_width` channels, and the stages hold
    L1, L1, L3 and L1 layers, where L1 <= L3.

    Raises:
        ValueError: a number is not positive, `channels` is odd or not a multiple of `group_width`, or
            the third stage is shallower than the others.
    """

    channels: int  # C1, width of the first stage
    group_width: int  # C', channels that share one set of offsets
    depth: int  # L1 = L2 = L4
    third_depth: int  # L3

    def __post_init__(self) -> None:
        if min(self.channels, self.group_width, self.depth, self.third_depth) < 1:
            raise ValueError(f"Stacking: all four numbers must be at least 1, got {self}")
        if self.channels % self.group_width or self.channels % 2:
            raise ValueError(
                f"Stacking: channels must be even and a multiple of group_width, got channels={self.channels} "
                f"and group_width={self.group_width}"
            )
        if self.third_depth < self.depth:
            raise ValueError(
                f"Stacking: the third stage is the deepest, got third_depth={self.third_depth} below depth={self.depth}"
            )

    @property
    def depths(self) -> tuple[int, int, int, int]:
        """Layers of the four stages."""
        return (self.depth, self.depth, self.third_depth, self.depth)


BASE = Stacking(channels=64, group_width=16, depth=4, third_depth=18)  # found by search at 30 M parameters: T


def scale(base: Stacking, phi: float, *, group_width: int | None = None) -> Stacking:
    """Scale a model to about 2^phi times its cost (InternImage, section 3.2, "scaling rules").

    The total depth D = 3 L1 + L3 becomes alpha^phi D and the width becomes beta^phi C1. The paper rounds by hand;
    here the width goes to the nearest multiple of the group width, L1 keeps its share of the depth, and L3 takes
    what is left of it.

    Args:
        base: the model at phi = 0.
        phi: doublings; negative for models smaller than `base`.
        group_width: channels of a group after scaling, if not those of `base` (the paper takes 32 for its largest
            model).
    """
    group_width = base.group_width if group_width is None else group_width
    channels = max(1, round(base.channels * WIDTH_FACTOR**phi / group_width)) * group_width
    depth = max(1, round(base.depth * DEPTH_FACTOR**phi))
    total_depth = round((3 * base.depth + base.third_depth) * DEPTH_FACTOR**phi)
    return Stacking(channels, group_width, depth, third_depth=max(depth, total_depth - 3 * depth))
