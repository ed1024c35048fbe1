"""The heads start as the official ones do: the mean and the spread of every tensor."""

import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from internimage.tasks import detection, segmentation
from internimage.variants import VARIANTS

DATA = Path(__file__).parents[1] / "data" / "golden" / "init_stats.json.gz"
OFFICIAL = json.loads(gzip.decompress(DATA.read_bytes()))
DEVIATIONS = 5  # that chance may put between two estimates
ROUNDING = 0.5e-4  # of the official numbers, by their size: they have five digits


class Widths(nn.Module):
    """What heads need to know of a backbone."""

    def __init__(self, variant):
        super().__init__()
        widths = [VARIANTS[variant].channels * 2**stage for stage in range(4)]
        self.feature_info = SimpleNamespace(channels=lambda: widths)


def heads(name):
    for task in (detection, segmentation):
        if name in task.configs.CONFIGS:
            config = task.configs.get_config(name)
            return task.models.on_backbone(Widths(config.variant), config, config.num_classes)
    return pytest.skip(f"{name} is not built yet")


@pytest.mark.parametrize("name", OFFICIAL)
def test_initial_weights_are_distributed_like_the_official_ones(name):
    torch.manual_seed(0)
    model = heads(name)
    state = model.state_dict()
    names = {official: ours for ours, official in model.renames.to_official(state).items()}
    expected = OFFICIAL[name]
    assert set(names) == set(expected)
    for key, (mean, std, least, largest) in expected.items():
        ours = state[names[key]].double()
        count = max(ours.numel(), 2)
        allowed = DEVIATIONS * std * (2 / count) ** 0.5
        assert ours.mean() == pytest.approx(mean, abs=allowed + 1e-7 + ROUNDING * abs(mean)), key
        assert ours.std(correction=0) == pytest.approx(std, abs=allowed + 1e-7), key
        if std == 0:
            assert ours.min() == pytest.approx(least, rel=ROUNDING), key
            assert ours.max() == pytest.approx(largest, rel=ROUNDING), key
