"""The traced points are those that the operator samples."""

import pytest
import torch
from torch import nn

from internimage import InternImage
from internimage.layers import DCNv3
from internimage.ops import dcnv3
from internimage.tasks.sampling import trace_sampling

GROUPS = (1, 2, 4, 8)


def make_model(**arguments: object) -> InternImage:
    torch.manual_seed(0)
    model = InternImage(channels=8, depths=(1, 1, 2, 1), groups=GROUPS, num_classes=3, **arguments).eval()
    for name, parameter in model.named_parameters():
        if ".offset." in name or ".mask." in name:
            nn.init.normal_(parameter, std=0.02 if ".offset." in name else 0.5)
    return model


@pytest.mark.parametrize("arguments", [{}, {"offset_scale": 0.5}, {"remove_center": True}])
def test_sampling_an_image_of_coordinates_gives_the_weighted_mean_of_the_traced_points(arguments):
    model = make_model(**arguments)
    image = torch.randn(3, 192, 160)
    panels = trace_sampling(model, image, x=80, y=96)
    layers = [stage.blocks[-1].dcn for stage in model.stages]
    for panel, layer, groups, reduction in zip(panels, layers, GROUPS, (4, 8, 16, 32), strict=True):
        inputs: list[torch.Tensor] = []
        layer.offset.register_forward_hook(lambda _, args, __, inputs=inputs: inputs.append(args[0]))
        with torch.no_grad():
            model(image[None])
            offset, mask = layer.offset(inputs[0]), layer.mask(inputs[0])
        height, width = offset.shape[1:3]
        row, column = round(96 / reduction), round(80 / reduction)
        assert panel.location == (column * reduction, row * reduction)
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        coordinates = torch.stack([columns, rows], -1).float().repeat(1, 1, groups)[None]  # x and y in each group
        sampled = dcnv3(
            coordinates,
            offset,
            mask,
            groups=groups,
            offset_scale=layer.offset_scale,
            remove_center=layer.remove_center,
            softmax=True,
        )
        expected = sampled[0, row, column].view(groups, 2) * reduction
        found = torch.from_numpy((panel.points * panel.weights[..., None]).sum(1)).float()
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
        assert panel.grid.shape == (DCNv3.KERNEL_SIZE**2 - layer.remove_center, 2)


def test_an_untrained_model_samples_the_regular_grid():
    model = InternImage(channels=8, depths=(1, 1, 1, 1), groups=GROUPS, num_classes=3).eval()
    for panel in trace_sampling(model, torch.randn(3, 64, 64), x=32, y=32):
        for points in panel.points:
            torch.testing.assert_close(torch.from_numpy(points), torch.from_numpy(panel.grid))
        assert panel.location == (32, 32)


def test_a_pixel_beyond_the_last_place_takes_the_last_and_the_model_is_left_as_it_was():
    model = make_model().train()
    panels = trace_sampling(model, torch.randn(3, 64, 64), x=63, y=63)
    assert [panel.location for panel in panels] == [(60, 60), (56, 56), (48, 48), (32, 32)]
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
