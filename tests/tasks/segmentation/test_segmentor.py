"""Segmentors take images of any size, compile, export with free sizes, and start as the official ones do."""

from collections.abc import Iterator

import pytest
import torch
from golden_heads import golden
from golden_segmentors import SEGMENTORS, golden_segmentor
from torch import nn

from internimage import deploy
from internimage.tasks.segmentation import Segmentor
from internimage.tasks.segmentation.mask2former import Mask2FormerHead, attention_mask
from internimage.tasks.segmentation.upernet import UperNetHead

EXPORTED = ("upernet_t", "segformer_l", "mask2former_h")
each_method = pytest.mark.parametrize("name", EXPORTED)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("name", SEGMENTORS)
@pytest.mark.parametrize("size", [(1, 1), (33, 50), (64, 32)])
@torch.no_grad()
def test_images_of_any_size_get_a_score_for_each_pixel(name: str, size: tuple[int, int]) -> None:
    model = golden_segmentor(golden(name))
    scores = model(torch.randn(2, 3, *size))
    assert scores.shape == (2, model.num_classes, *size)
    assert scores.isfinite().all()


@each_method
@torch.no_grad()
def test_segmentors_compile_into_one_graph(name: str) -> None:
    model = golden_segmentor(golden(name))
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((40, 56), (65, 33)):
        image = torch.randn(2, 3, *size)
        torch.testing.assert_close(compiled(image), model(image), rtol=1e-4, atol=1e-5)


@each_method
def test_training_compiles_into_one_graph(name: str) -> None:
    model = golden_segmentor(golden(name)).train()
    image = torch.randn(2, 3, 40, 48)
    grads = []
    for forward in (model.forward_heads, torch.compile(model.forward_heads, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        outputs, _ = forward(image)
        loss = (
            outputs.square().mean() if name != "mask2former_h" else sum(x.square().mean() for p in outputs for x in p)
        )
        loss.backward()
        grads.append([parameter.grad.clone() for parameter in model.head.parameters() if parameter.grad is not None])
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-5)


@each_method
@torch.no_grad()
def test_segmentors_export_with_free_sizes(name: str) -> None:
    model = golden_segmentor(golden(name))
    program = deploy.export(model, torch.randn(1, 3, 64, 96), batch=(1, 4), height=(32, 160), width=(32, 160))
    exported = program.module()
    for shape in ((1, 3, 64, 96), (3, 3, 33, 158), (2, 3, 97, 40)):
        image = torch.randn(shape)
        torch.testing.assert_close(exported(image), model(image), rtol=1e-4, atol=1e-5)


def test_queries_look_inside_their_mask_or_everywhere_if_it_is_empty() -> None:
    logits = torch.full((1, 2, 4, 4), -3.0)
    logits[0, 0, :, :2] = 3.0
    mask = attention_mask(logits, (2, 2))
    assert mask.tolist() == [[[True, False, True, False], [True, True, True, True]]]


def test_dropout_leaves_out_whole_channels_in_training_alone() -> None:
    torch.manual_seed(0)
    head = UperNetHead([8, 8], 1, channels=1000, bins=(1,), dropout=0.25)
    nn.init.ones_(head.classifier.weight)
    x = torch.ones(1, 1000, 2, 2)
    assert head.eval().classify(x).eq(1000).all()
    with torch.no_grad():
        trained = head.train().classify(x)
    assert (trained == trained[0, 0, 0, 0]).all()  # a channel is left out everywhere or nowhere
    assert 600 < float(trained[0, 0, 0, 0]) * 0.75 < 900


def test_mask2former_starts_as_the_official_one() -> None:
    torch.manual_seed(0)
    channels, hidden = 256, 512
    head = Mask2FormerHead(
        [16, 32, 64, 128], 150, channels=channels, hidden_channels=hidden, pixel_hidden_channels=hidden
    )
    layer, encoder = head.decoder[0], head.pixel_decoder.encoder[0]
    xavier = [
        (layer.cross_attention.in_proj_weight, 4 * channels),
        (layer.self_attention.out_proj.weight, 2 * channels),
        (layer.ffn.fc1.weight, channels + hidden),
        (encoder.ffn.fc2.weight, channels + hidden),
        (encoder.attention.value_proj.weight, 2 * channels),
        (head.pixel_decoder.inputs[0].conv.weight, channels + 128),
    ]
    for weight, fans in xavier:
        assert weight.std().item() == pytest.approx((2 / fans) ** 0.5, rel=0.02)
    for weight, fan_in in (
        (head.pixel_decoder.lateral.conv.weight, 16),
        (head.pixel_decoder.output.conv.weight, 9 * channels),
        (head.pixel_decoder.pixel_embed.weight, channels),
    ):
        assert weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.02)  # uniform up to sqrt(3 / fan_in)
        assert weight.abs().max().item() == pytest.approx((3 / fan_in) ** 0.5, rel=0.02)
    for table in (head.query, head.query_position, head.level_embed, head.pixel_decoder.level_embed):
        assert table.std().item() == pytest.approx(1, abs=0.1)
    assert head.class_embed.weight.std().item() == pytest.approx((3 * channels) ** -0.5, rel=0.02)


def test_a_segmentor_is_built_of_any_backbone() -> None:
    class TwoMaps(nn.Module):
        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            return [image[..., ::4, ::4], image[..., ::8, ::8]]

    model = Segmentor(TwoMaps(), UperNetHead([3, 3], 5, channels=4, bins=(1, 2))).eval()
    assert model(torch.randn(1, 3, 40, 40)).shape == (1, 5, 40, 40)
