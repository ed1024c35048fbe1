"""Masks are complementary, images share them evenly, and what an image shows is found again in every map."""

import numpy as np
import pytest
import torch

from internimage.tasks.augment import Box, View
from internimage.tasks.pretraining.geometry import cell_places, relative_view, seen_from_source
from internimage.tasks.pretraining.mixing import BLOCK, Mixture, enlarge


def mixture(images, rows, count=5):
    rng = np.random.default_rng(0)
    return Mixture(torch.tensor(np.stack([rng.permutation(rows * rows) for _ in range(count)])), images, rows)


@pytest.mark.parametrize(("images", "rows"), [(1, 2), (2, 2), (2, 3), (3, 4), (4, 2), (5, 7)])
def test_each_block_shows_one_image_and_images_show_equally_many(images, rows):
    owner = mixture(images, rows).owner()
    assert owner.shape == (5, rows, rows)
    for one in owner:
        counts = np.bincount(one.flatten(), minlength=images)
        assert counts.sum() == rows * rows
        assert counts.max() - counts.min() <= 1
    if images > 1:
        assert len(np.unique(owner.numpy(), axis=0)) > 1


@pytest.mark.parametrize(("images", "rows"), [(1, 2), (2, 3), (3, 2)])
def test_a_mixture_takes_every_pixel_from_the_image_that_its_block_shows(images, rows):
    mixed = mixture(images, rows)
    side = rows * BLOCK
    pictures = torch.rand(5 * images, 3, side, side)
    found = mixed.mix(pictures)
    owner = mixed.owner()
    for m in range(5):
        for y in range(0, side, 13):
            for x in range(0, side, 17):
                image = pictures[m * images + owner[m, y // BLOCK, x // BLOCK]]
                assert torch.equal(found[m, :, y, x], image[:, y, x])


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize(("images", "rows"), [(1, 3), (2, 3), (2, 2), (3, 4)])
def test_cells_of_a_map_go_to_the_image_that_they_show(images, rows, scale):
    mixed = mixture(images, rows)
    side = rows * scale
    number = torch.arange(5 * side * side).view(5, side, side, 1)  # each cell tells its place
    shown = mixed.shown(number)
    each = rows * rows // images
    assert shown.shape == (5 * images, each * scale**2, 1)
    assert shown.unique().numel() == shown.numel()
    owner = enlarge(mixed.owner(), side).flatten()
    for image, cells in enumerate(shown[..., 0]):
        assert set(owner[cells].tolist()) == {image % images}
        assert set((cells // side**2).tolist()) == {image // images}


def test_more_images_than_blocks_are_refused():
    with pytest.raises(ValueError, match=r"5 images can't share 4 blocks of 32 pixels"):
        mixture(5, 2)


def ramp_seen_by(view, places):
    """What a picture whose colour tells its place shows at places of a view of it."""
    rows, columns = places[..., 0], places[..., 1]
    columns = 1 - columns if view.flipped else columns
    return torch.stack([view.crop.top + rows * view.crop.height, view.crop.left + columns * view.crop.width], dim=-1)


@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
def test_places_of_one_view_are_found_in_another(flips):
    source = View(torch.empty(0), Box(10, 20, 50, 80), flips[0])
    target = View(torch.empty(0), Box(40, 5, 30, 60), flips[1])
    places = cell_places(3, 4, torch.device("cpu"), torch.float64)[None]
    relative = torch.tensor(relative_view(source, target)).double()[None]
    found = seen_from_source(places, relative)
    torch.testing.assert_close(ramp_seen_by(source, found), ramp_seen_by(target, places), rtol=0, atol=1e-4)
    assert torch.equal(cell_places(1, 2, torch.device("cpu"), torch.float64), torch.tensor([[0.5, 0.25], [0.5, 0.75]]))
