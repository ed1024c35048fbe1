"""From a mixture's map to the representation of one of its images' target view, wherever that looks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from internimage.layers import layer_norm, linear
from internimage.tasks.layers.attention import sine_encoding
from internimage.tasks.pretraining.geometry import cell_places, seen_from_source
from internimage.tasks.pretraining.mixing import Mixture, enlarge

_CELLS_PER_WAVE = 4  # of the shortest wave that encodes places
_TEMPERATURE = 20.0


class DenseDecoder(nn.Module):
    """A transformer decoder whose queries are the asked cells of the target view, at their places in the input view.

    It knows the transforms: where each image is shown in the mixture (elsewhere stands a mask token), and place, size
    and flip of the target view as seen from the input view.

    Args:
        channels: D of the encoder's map and of the predicted one.
        width: of the layers, a multiple of 64.
        layers: how many.
    """

    def __init__(self, channels: int, width: int, layers: int) -> None:
        super().__init__()
        self.width = width
        self.input_proj = linear(channels, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.transform = linear(4, width)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width, width // 64, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = layer_norm(width)
        self.output_proj = linear(width, channels)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, features: Tensor, mixture: Mixture, relative: Tensor, cells: Tensor) -> Tensor:
        """Predict.

        Args:
            features: [M, h, w, D] of the mixtures.
            mixture: how they were mixed, k images each.
            relative: [M * k, 2, 2], see `relative_view`.
            cells: [M * k, n], numbers of the target view's cells, row by row.

        Returns:
            [M * k, n, D].
        """
        side = features.shape[1]
        tokens = self.input_proj(features).flatten(1, 2)[:, None]  # [M, 1, h * w, width]
        images = torch.arange(mixture.images, device=cells.device)
        shown = enlarge(mixture.owner(), side).flatten(1)[:, None] == images[:, None]  # [M, k, h * w]
        grid = cell_places(side, side, cells.device, relative.dtype)
        memory = torch.where(shown[..., None], tokens, self.mask_token).flatten(0, 1) + self._encode(grid, side)
        places = seen_from_source(grid[cells], relative)
        query = self._encode(places, side) + self.transform(_describe(relative))[:, None]
        for layer in self.layers:
            query = layer(query, memory)
        out: Tensor = self.output_proj(self.norm(query))
        return out

    def _encode(self, places: Tensor, side: int) -> Tensor:
        return sine_encoding(places * (side / _CELLS_PER_WAVE), self.width // 2, _TEMPERATURE).flatten(-2)


def _describe(relative: Tensor) -> Tensor:
    """[N, 2, 2] -> [N, 4]: sizes on a logarithmic scale, and directions; places have their own encoding."""
    factor = relative[..., 1]
    return torch.cat([factor.abs().log(), factor.sign()], dim=-1)
