"""Segmentors take images of any size, compile, export with free sizes, and start as the official ones do."""

import pytest
import torch
from small_segmentors import METHODS, small_segmentor
from torch import Tensor, nn

from internimage import deploy
from internimage.tasks.segmentation import Segmentor
from internimage.tasks.segmentation.mask2former import Mask2FormerHead, attention_mask
from internimage.tasks.segmentation.objective import total_loss
from internimage.tasks.segmentation.upernet import UperNetHead

each_method = pytest.mark.parametrize("method", METHODS)


@each_method
@pytest.mark.parametrize("size", [(1, 1), (33, 50), (64, 32)])
@torch.no_grad()
def test_images_of_any_size_get_a_score_for_each_pixel(method: str, size: tuple[int, int]) -> None:
    scores = small_segmentor(method)(torch.randn(2, 3, *size))
    assert scores.shape == (2, 5, *size)
    assert scores.isfinite().all()


@each_method
@torch.no_grad()
def test_segmentors_compile_into_one_graph(method: str) -> None:
    model = small_segmentor(method)
    image = torch.randn(2, 3, 40, 56)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image), model(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "method", ["upernet", *(pytest.param(method, marks=pytest.mark.once) for method in ("segformer", "mask2former"))]
)
def test_training_compiles_into_one_graph_for_any_batch(method: str) -> None:
    model = small_segmentor(method).train()
    model.head.dropout = 0.0  # else compiled and eager code draw different channels
    if model.auxiliary_head is not None:
        model.auxiliary_head.dropout = 0.0
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for batch in (2, 3):
        image = torch.randn(batch, 3, 64, 96)
        labels = torch.randint(0, 5, (batch, 64, 96))
        torch._dynamo.mark_dynamic(image, 0)
        gradients = []
        for form in (compiled, model):
            model.zero_grad()
            torch.manual_seed(0)  # of the points at which masks are compared
            outputs, auxiliary_logits = form(image)
            total_loss(outputs, auxiliary_logits, labels, points=64).backward()
            gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


@each_method
@torch.no_grad()
def test_segmentors_export_with_free_sizes(method: str) -> None:
    model = small_segmentor(method)
    program = deploy.export(model, torch.randn(1, 3, 64, 96), batch=(1, 4), height=(33, 160), width=(33, 160))
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
        def forward(self, image: Tensor) -> list[Tensor]:
            return [image[..., ::4, ::4], image[..., ::8, ::8]]

    model = Segmentor(TwoMaps(), UperNetHead([3, 3], 5, channels=4, bins=(1, 2))).eval()
    assert model(torch.randn(1, 3, 40, 40)).shape == (1, 5, 40, 40)
