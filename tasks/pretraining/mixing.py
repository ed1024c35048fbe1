"""Several images mixed into one: complementary masks of blocks.

A block is as large as a cell of the last stage's map, so that every cell of every stage belongs to one image alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 32  # pixels: the stride of the last stage


@dataclass(frozen=True)
class Mixture:
    """Which blocks of a mixture show which of its images.

    Attributes:
        blocks: [M, B], for each mixture its blocks, numbered row by row, in random order. Image i shows blocks
            [i * B // images] to [(i + 1) * B // images] of that order, so that all show as many (but for one block).
        images: in a mixture.
        rows: of blocks, B is their square.

    Raises:
        ValueError: more images than blocks.
    """

    blocks: Tensor
    images: int
    rows: int

    def __post_init__(self) -> None:
        if not 1 <= self.images <= self.blocks.shape[1]:
            raise ValueError(
                f"Mixture: {self.images} images can't share {self.blocks.shape[1]} blocks of {BLOCK} pixels; mix fewer "
                "or take larger images"
            )

    def owner(self) -> Tensor:
        """[M, rows, rows], the image that each block shows, 0 to images - 1."""
        count = self.blocks.shape[1]
        place = torch.arange(count, device=self.blocks.device)
        # The image whose range holds the place: the largest i with i * count // images <= place.
        image = ((place + 1) * self.images - 1) // count
        owner = torch.empty_like(self.blocks).scatter_(1, self.blocks, image.expand_as(self.blocks))
        return torch.unflatten(owner, 1, (self.rows, self.rows))

    def mix(self, images: Tensor) -> Tensor:
        """Images [M * images, C, S, S], those of a mixture one after the other -> mixtures [M, C, S, S]."""
        if self.images == 1:
            return images
        owner = enlarge(self.owner(), images.shape[-1])
        parts = torch.unflatten(images, 0, (-1, self.images))
        return parts.gather(1, owner[:, None, None].expand(-1, -1, *parts.shape[2:]))[:, 0]

    def shown(self, features: Tensor) -> Tensor:
        """The cells of a map [M, h, w, D] that each image shows, as many for all: [M * images, cells, D].

        Where the blocks can't be shared evenly, one of those that some images have more is left out.
        """
        scale = features.shape[1] // self.rows
        count = self.blocks.shape[1]
        each = count // self.images
        first = torch.arange(self.images, device=self.blocks.device) * count // self.images
        chosen = self.blocks[:, first[:, None] + torch.arange(each, device=self.blocks.device)]
        blocks = torch.unflatten(torch.unflatten(features, 2, (self.rows, scale)), 1, (self.rows, scale))
        blocks = blocks.transpose(2, 3).flatten(1, 2).flatten(2, 3)  # [M, B, scale², D]
        places = chosen.flatten(1)[:, :, None, None].expand(-1, -1, *blocks.shape[2:])
        return torch.unflatten(blocks.gather(1, places), 1, (self.images, each)).flatten(0, 1).flatten(1, 2)


def enlarge(owner: Tensor, side: int) -> Tensor:
    """[M, rows, rows] -> [M, side, side], a multiple of rows."""
    scale = side // owner.shape[1]
    return owner.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
