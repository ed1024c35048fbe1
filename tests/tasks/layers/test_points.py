"""Points are sampled as in the official code; uncertain points are those near a mask's edge."""

import torch
from golden_heads import deviation, golden

from internimage.tasks.layers.points import sample_points, uncertain_points


def test_samples_are_the_official_ones() -> None:
    parts = golden("parts")
    got = sample_points(parts["in/point_map"], parts["in/points"])
    assert deviation(got, parts["out/point_sample"]) < 1e-6


def test_most_uncertain_points_lie_at_the_edge_of_a_mask() -> None:
    torch.manual_seed(0)
    left = torch.linspace(-8, 8, 64).expand(2, 1, 32, 64).contiguous()  # the edge is at x = 1/2
    points = uncertain_points(left, 400)
    assert points.shape == (2, 400, 2)
    from_edge = (points[..., 0] - 0.5).abs()
    fades = ((points - 0.5).abs() > 0.5 - 1 / 32).any(-1)  # towards the zeros outside of the map
    assert ((from_edge < 0.14) | fades)[:, :300].all()  # a quarter of the candidates lies within 1/8
    assert from_edge[:, 300:].mean() > 0.2  # the last quarter is uniform: 1/4 on average


def test_no_masks_have_no_points() -> None:
    assert uncertain_points(torch.zeros(0, 1, 8, 8), 16).shape == (0, 16, 2)
