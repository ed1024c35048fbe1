"""Views are what Pillow makes of the images, and the prediction is their mean."""

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

import internimage
from internimage import imagenet
from internimage.tasks.classification.tta import predict_views, to_1k


class Recorder:
    """A model of three classes that keeps what it was shown."""

    def __init__(self) -> None:
        self.views: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.views.append(images)
        left, right = images.chunk(2, dim=3)
        return torch.stack([images.amax((1, 2, 3)), left.mean((1, 2, 3)), right.mean((1, 2, 3))], 1)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def test_without_options_it_is_the_models_softmax(images: Tensor) -> None:
    torch.manual_seed(0)
    model = internimage.create_model("internimage_atto", num_classes=5).eval()
    got = predict_views(model, images)
    with torch.no_grad():
        torch.testing.assert_close(got, model(images).softmax(1))
    assert not got.requires_grad


def test_the_result_is_the_mean_over_scales_and_mirror_images(images: Tensor) -> None:
    model = Recorder()
    got = predict_views(model, images, scales=(0.5, 1.0, 1.5), flip=True)
    views = list(model.views)
    assert [tuple(view.shape[2:]) for view in views] == [(32, 64)] * 2 + [(64, 96)] * 2 + [(96, 160)] * 2
    for view, mirrored in zip(views[::2], views[1::2], strict=True):
        torch.testing.assert_close(mirrored, torch.fliplr(view.movedim(3, 1)).movedim(1, 3), rtol=0, atol=0)
    expected = sum(model(view).double().softmax(1) for view in views) / 6
    torch.testing.assert_close(got.double(), expected)


def test_a_symmetric_prediction_comes_of_flipping(images: Tensor) -> None:
    got = predict_views(Recorder(), images, flip=True)
    torch.testing.assert_close(got[:, 1], got[:, 2])


@pytest.mark.parametrize(
    ("scale", "multiple", "size"), [(0.75, 16, (48, 80)), (0.6, 1, (38, 58)), (1.25, 32, (96, 128))]
)
def test_a_scaled_view_is_pillows(images: Tensor, scale: float, multiple: int, size: tuple[int, int]) -> None:
    model = Recorder()
    predict_views(model, images, scales=(scale,), size_multiple=multiple)
    (view,) = model.views
    for channel, got in zip(images.flatten(0, 1), view.flatten(0, 1), strict=True):
        picture = PIL.Image.fromarray(channel.numpy()).resize(size[::-1], PIL.Image.Resampling.BICUBIC)
        np.testing.assert_allclose(got, np.asarray(picture), atol=1e-4)


def test_a_tiny_scale_leaves_one_multiple(images: Tensor) -> None:
    model = Recorder()
    predict_views(model, images, scales=(0.01,))
    assert model.views[0].shape == (2, 3, 32, 32)


def test_the_logarithm_is_finite_where_a_class_is_out_of_question() -> None:
    logits = torch.tensor([[0.0, -1000.0]])
    probabilities = predict_views(lambda _: logits, torch.zeros(1, 3, 8, 8))
    assert probabilities.log().isfinite().all()
    torch.testing.assert_close(probabilities, logits.softmax(1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": ()}, r"scales must be positive numbers, at least one, got \[\]"),
        ({"scales": (1.0, 0.0)}, "scales must be positive"),
        ({"scales": (float("nan"),)}, "scales must be positive"),
        ({"size_multiple": 0}, "size_multiple must be at least 1, got 0"),
        ({"images": torch.zeros(3, 8, 8)}, r"expected images \[N, 3, H, W\], got shape \[3, 8, 8\]"),
    ],
)
def test_wrong_arguments_are_named(images: Tensor, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predict_views(Recorder(), **{"images": images} | changes)


def test_the_1k_logits_are_those_of_the_same_wordnet_ids() -> None:
    logits = torch.arange(21841.0).expand(2, 3, 21841)
    ids = imagenet.wordnet_ids(21841)
    got = to_1k(logits)
    assert got.shape == (2, 3, 1000)
    found = [ids[int(label)] for label in got[1, 2]]
    assert [i for i, (a, b) in enumerate(zip(found, imagenet.wordnet_ids(), strict=True)) if a != b] == [850]
    assert imagenet.class_names()[850] == "teddy, teddy bear"
    assert imagenet.class_names(21841)[ids.index(found[850])] == "teapot"
    with pytest.raises(ValueError, match=r"expected logits \[\.\.\., 21841\] of ImageNet-22K, got \[2, 1000\]"):
        to_1k(torch.zeros(2, 1000))
