"""Maps at points, and which points a loss looks at (PointRend, arXiv 1912.08193)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples of maps, in float32 at least; outside of a map there are zeros.

    Args:
        maps: [N, C, H, W].
        points: [N, P, 2], x before y, from 0 to 1 across the map.

    Returns:
        [N, C, P].
    """
    dtype = torch.promote_types(maps.dtype, torch.float32)
    grid = (2 * points.to(dtype) - 1).unsqueeze(2)
    return F.grid_sample(maps.to(dtype), grid, padding_mode="zeros", align_corners=False).squeeze(3)


def random_points(maps: int, points: int, like: Tensor) -> Tensor:
    """[maps, points, 2], uniform from 0 to 1, on the device of `like`."""
    return torch.rand(maps, points, 2, device=like.device)


@torch.no_grad()
def uncertain_points(logits: Tensor, points: int, *, oversampling: float = 3.0, share: float = 0.75) -> Tensor:
    """Random points, most of them where a mask is least sure (PointRend, section 3.3).

    Args:
        logits: [M, 1, H, W], of masks.
        points: P, how many to choose in each mask.
        oversampling: candidates for each point.
        share: part of the points that are the least sure candidates; the others are uniform.

    Returns:
        [M, P, 2], x before y, from 0 to 1 across the map.
    """
    candidates = random_points(len(logits), int(points * oversampling), logits)
    chosen = int(points * share)
    unsure = sample_points(logits, candidates).abs().squeeze(1).topk(chosen, largest=False).indices
    least_sure = candidates.gather(1, unsure.unsqueeze(-1).expand(-1, -1, 2))
    return torch.cat((least_sure, random_points(len(logits), points - chosen, logits)), dim=1)
