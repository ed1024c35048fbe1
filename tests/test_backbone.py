"""The backbone's building blocks, its timm conventions, and what the compiler and exporter make of it."""

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from internimage.backbone import InternImage, InternImageFeatures
from internimage.composite import CompositeInternImage
from internimage.heads import encode_metadata
from internimage.layers import DCNv3, DropPath

TINY: dict[str, Any] = {"channels": 8, "depths": (1, 1, 1, 1), "groups": (1, 2, 4, 8), "num_classes": 5}
FORMS = {
    "pre-norm": {},
    "post-norm": {"post_norm": True, "layer_scale": 1e-5, "offset_scale": 2.0},
    "residual post-norm": {"res_post_norm": True, "center_feature_scale": True, "dw_kernel_size": 5},
    "centre removed": {"remove_center": True, "level2_post_norm_block_ids": (0,)},
}


def tiny(**arguments: Any) -> InternImage:
    torch.manual_seed(0)
    return InternImage(**(TINY | arguments)).eval()


def with_offsets(model: InternImage) -> InternImage:
    """Move the sampling points off the grid, where a fresh model has them."""
    torch.manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, DCNv3):
            nn.init.normal_(layer.offset.weight, std=0.2)
            nn.init.normal_(layer.mask.weight, std=0.2)
    return model


def image(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(2))


# Sizes


@pytest.mark.parametrize("size", [(64, 64), (65, 33), (1, 1), (7, 200)])
def test_any_image_size_works_and_halves_rounding_up(size: tuple[int, int]) -> None:
    _, maps = tiny().forward_intermediates(image(2, 3, *size))
    for i, got in enumerate(maps):
        assert got.shape == (2, 8 * 2**i, *(math.ceil(side / (4 * 2**i)) for side in size))


def test_an_empty_batch_works() -> None:
    assert tiny()(image(0, 3, 32, 32)).shape == (0, 5)


@pytest.mark.parametrize("chans", [1, 4])
def test_other_image_channels_work(chans: int) -> None:
    assert tiny(in_chans=chans)(image(1, chans, 32, 32)).shape == (1, 5)


@pytest.mark.parametrize("arguments", FORMS.values(), ids=FORMS)
def test_a_sample_does_not_depend_on_its_batch(arguments: dict[str, Any]) -> None:
    model = with_offsets(tiny(**arguments)).double()
    images = image(3, 3, 40, 56).double()
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]), rtol=0, atol=1e-12)


def test_memory_format_of_the_image_does_not_matter() -> None:
    model, images = with_offsets(tiny()), image(2, 3, 48, 64)
    torch.testing.assert_close(model(images.contiguous(memory_format=torch.channels_last)), model(images))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_follows_single(dtype: torch.dtype) -> None:
    model = with_offsets(tiny(center_feature_scale=True)).requires_grad_(False)
    expected = model(image(2, 3, 48, 64))
    with torch.autocast("cpu", dtype=dtype):
        mixed = model(image(2, 3, 48, 64))
    halved = model.to(dtype)(image(2, 3, 48, 64).to(dtype))
    tolerance = 0.1 * float(expected.std())
    torch.testing.assert_close(mixed.float(), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(halved.float(), expected, rtol=0, atol=tolerance)
    assert halved.dtype == dtype


# Bad input


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (image(3, 32, 32), ValueError, r"\[N, 3, H, W\].*got \[3, 32, 32\].*image\[None\]"),
        (image(1, 32, 32, 3), ValueError, r"got \[1, 32, 32, 3\].*permute"),
        (image(1, 3, 0, 32), ValueError, r"at least one pixel, got \[1, 3, 0, 32\]"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), TypeError, r"got torch.uint8.*255"),
    ],
)
def test_a_wrong_image_is_refused(bad: Tensor, error: type[Exception], message: str) -> None:
    for call in (tiny(), tiny().forward_intermediates, InternImageFeatures(**TINY)):
        with pytest.raises(error, match=message):
            call(bad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 7}, "even and positive"),
        ({"depths": (1, 1, 1)}, r"four positive numbers each, got depths=\(1, 1, 1\)"),
        ({"groups": (3, 6, 12, 24)}, r"groups must divide .* gives for example \(1, 2, 4, 8\)"),
        ({"res_post_norm": True, "post_norm": True}, "neither post_norm nor layer_scale"),
        ({"res_post_norm": True, "layer_scale": 1.0}, "neither post_norm nor layer_scale"),
        ({"level2_post_norm_block_ids": (1,)}, r"third stage, 0 to 0, got \(1,\)"),
        ({"head": "linear"}, "conv, clip, metadata or None, got 'linear'"),
        ({"drop_path_rate": 1.0}, "below 1, got 1.0"),
        ({"dw_kernel_size": 4}, "must be odd.* got 4"),
    ],
)
def test_contradicting_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


# Initialisation


def test_a_fresh_model_samples_the_regular_grid_uniformly() -> None:
    for layer in tiny(center_feature_scale=True).modules():
        if isinstance(layer, DCNv3):
            assert layer.center_scale is not None
            for part in (layer.offset, layer.mask, layer.center_scale):
                assert not part.weight.any()
                assert not part.bias.any()


def test_linear_layers_start_as_the_paper_has_them() -> None:
    model = tiny(channels=32, groups=(2, 4, 8, 16), layer_scale=1e-5, post_norm=True).requires_grad_(False)
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Linear) or name.endswith(("offset", "mask")):
            continue
        assert not layer.bias.any(), name
        if name.endswith(("input_proj", "output_proj")):
            bound = math.sqrt(6 / (layer.in_features + layer.out_features))
            assert 0.9 * bound < float(layer.weight.abs().max()) <= bound, name
        else:
            assert float(layer.weight.std()) == pytest.approx(0.02, rel=0.1), name
    scales = [p for name, p in model.named_parameters() if "layer_scale" in name]
    assert len(scales) == 8
    assert all(bool((scale == 1e-5).all()) for scale in scales)


# Stochastic depth and checkpointing


def test_drop_path_rates_grow_linearly_over_all_blocks() -> None:
    model = tiny(depths=(2, 1, 2, 1), drop_path_rate=0.5)
    rates = [layer.rate for layer in model.modules() if isinstance(layer, DropPath)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_drop_path_zeroes_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    dropped = DropPath(0.25)(torch.ones(20_000, 2, 3, 1))
    kept = dropped[:, 0, 0, 0] != 0
    assert (dropped == torch.where(kept, 1 / 0.75, 0.0).view(-1, 1, 1, 1)).all()
    assert float(dropped.mean()) == pytest.approx(1, abs=0.02)
    assert DropPath(0.25).eval()(torch.ones(2, 1)).eq(1).all()


def test_checkpointing_changes_no_gradient() -> None:
    model = with_offsets(tiny(drop_path_rate=0.3, level2_post_norm_block_ids=(0,))).train()
    images = image(4, 3, 32, 32)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(5)
        model(images).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(list(model.parameters()))
    torch.testing.assert_close(gradients[1], gradients[0])


def test_checkpointing_runs_each_block_again_in_the_backward_pass() -> None:
    model = tiny().train()
    model.set_grad_checkpointing()
    calls = []
    model.stages[1].blocks[0].dcn.register_forward_hook(lambda *_: calls.append(1))
    model(image(2, 3, 32, 32)).sum().backward()
    assert len(calls) == 2


# Heads and timm's conventions


@pytest.mark.parametrize("head", ["conv", "clip", "metadata", None])
def test_forward_is_features_then_head(head: Any) -> None:
    model = with_offsets(tiny(head=head))
    images = image(2, 3, 64, 96)
    features = model.forward_features(images)
    assert features.shape[-1] == model.num_features
    torch.testing.assert_close(model.forward_head(features), model(images))
    hidden = model.forward_head(features, pre_logits=True)
    assert hidden.shape == (2, model.head_hidden_size)
    if head in ("conv", "clip"):
        torch.testing.assert_close(model.get_classifier()(hidden), model(images))
    if head is None:
        assert model.num_classes == 0
        torch.testing.assert_close(model(images), features.mean(dim=(1, 2)))


@pytest.mark.parametrize("head", ["conv", "clip", "metadata"])
def test_the_classifier_can_be_replaced(head: Any) -> None:
    model = tiny(head=head).double()
    images = image(1, 3, 32, 64).double()
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    assert model(images).shape == (1, model.head_hidden_size)
    model.reset_classifier(9)
    assert model.num_classes == 9
    assert model(images).shape == (1, 9)
    assert tiny(head=head, num_classes=0)(images.float()).shape == (1, model.head_hidden_size)


def test_a_model_without_head_or_with_another_pooling_refuses_a_classifier() -> None:
    with pytest.raises(ValueError, match="made with head=None"):
        tiny(head=None).reset_classifier(3)
    with pytest.raises(ValueError, match="global_pool='max'"):
        tiny().reset_classifier(3, global_pool="max")


@pytest.mark.parametrize("size", [(224, 224), (17, 32), (64, 50)])
def test_the_clip_head_takes_even_third_stages(size: tuple[int, int]) -> None:
    assert tiny(head="clip")(image(1, 3, *size)).shape == (1, 5)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((16, 64), "image of 16x64 pixels, whose third stage is 1x4.* nearest are 32x64 and 32x64"),
        ((200, 300), "image of 200x300 pixels, whose third stage is 13x19.* nearest are 192x288 and 224x320"),
    ],
)
def test_the_clip_head_names_the_sizes_that_fit(size: tuple[int, int], message: str) -> None:
    model = tiny(head="clip")
    for call in (model, model.forward_features, model.forward_intermediates):
        with pytest.raises(ValueError, match=message):
            call(image(1, 3, *size))
    assert len(model.forward_intermediates(image(1, 3, *size), intermediates_only=True)) == 4


def test_metadata_adds_to_the_logits() -> None:
    model = tiny(head="metadata")
    images = image(2, 3, 32, 32)
    missing = torch.zeros(2, 7)
    torch.testing.assert_close(model(images), model(images, missing))
    known = encode_metadata(torch.tensor([3.0, 12.0]), torch.tensor([48.0, -33.0]), torch.tensor([11.0, 151.0]))
    expected = model.get_classifier()(model.forward_head(model.forward_features(images), pre_logits=True))
    torch.testing.assert_close(model(images, known), expected + model.head.metadata(known))
    assert not torch.allclose(model(images, known), model(images, missing))
    with pytest.raises(ValueError, match="ConvHead takes none"):
        tiny()(images, known)


def test_metadata_is_encoded_as_angles_and_a_unit_vector() -> None:
    nan = math.nan
    encoded = encode_metadata(
        torch.tensor([3.0, nan, 12.0]), torch.tensor([90.0, 30.0, 0.0]), torch.tensor([45.0, nan, 10.0])
    )
    expected = [[1, 0, 0, 0, 0, 0, 1], [0] * 7, [0, 1, 0, 0, 0, 0, 0]]  # all of a place is missing if half of it is
    torch.testing.assert_close(encoded, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1e-6)


def test_intermediates_are_the_maps_asked_for() -> None:
    model = with_offsets(tiny())
    images = image(1, 3, 64, 96)
    final, every = model.forward_intermediates(images, output_fmt="NHWC")
    torch.testing.assert_close(final, model.forward_features(images))
    torch.testing.assert_close(every[3], final)
    for indices, expected in ((2, [2, 3]), ([1, -1], [1, 3]), ((0,), [0]), (None, [0, 1, 2, 3])):
        maps = model.forward_intermediates(images, indices, intermediates_only=True)
        assert isinstance(maps, list)
        for got, index in zip(maps, expected, strict=True):
            torch.testing.assert_close(got, every[index].permute(0, 3, 1, 2))
    last, _ = model.forward_intermediates(images, [0, 1], stop_early=True)
    torch.testing.assert_close(last, every[1])
    with pytest.raises(ValueError, match=r"-4..3; got \[4\]"):
        model.forward_intermediates(images, [4])
    with pytest.raises(ValueError, match="got 'NLC'"):
        model.forward_intermediates(images, output_fmt="NLC")


def test_feature_info_tells_widths_and_strides() -> None:
    model = tiny()
    assert model.feature_info[2] == {"num_chs": 32, "reduction": 16, "module": "stages.2"}
    assert model.feature_info.channels() == [8, 16, 32, 64]
    assert model.feature_info.reduction([0, 3]) == [4, 32]
    assert model.feature_info.module_name(1) == "stages.1"
    assert InternImageFeatures(out_indices=(1, -1), **TINY).feature_info.channels() == [16, 64]


def test_pruning_leaves_what_the_maps_need() -> None:
    model = with_offsets(tiny())
    images = image(1, 3, 64, 64)
    before = model.forward_intermediates(images, [0, 1], intermediates_only=True)
    assert model.prune_intermediate_layers([0, 1]) == [0, 1]
    torch.testing.assert_close(model.forward_intermediates(images, [0, 1], intermediates_only=True), before)
    assert not [name for name, _ in model.named_parameters() if re.match(r"stages\.[23]|stages\.1\.down|head", name)]


@pytest.mark.parametrize("coarse", [False, True])
def test_group_matcher_orders_all_parameters_by_depth(coarse: bool) -> None:
    model = tiny(depths=(1, 2, 2, 1), level2_post_norm_block_ids=(1,))
    stem, blocks = model.group_matcher(coarse).values()
    patterns = [(blocks, None)] if isinstance(blocks, str) else blocks
    depths = []
    for name, _ in model.named_parameters():
        found = [(match, tail) for pattern, tail in patterns if (match := re.match(pattern, name))]
        assert bool(re.match(stem, name)) + bool(found) + name.startswith("head.") == 1, name
        if found:
            match, tail = found[0]
            depths.append((*map(int, match.groups()), *(tail or ())))
    assert depths == sorted(depths)
    assert len({d for d in depths if 99999 not in d}) == (4 if coarse else 6)
    assert model.no_weight_decay() == set()


# Compilation


def test_compiles_into_one_graph_of_dynamic_size() -> None:
    model = with_offsets(tiny(level2_post_norm_block_ids=(0,)))
    graphs = 0

    def count(module: torch.fx.GraphModule, _: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return module

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=count)
    with torch.no_grad():
        for size in ((2, 64, 96), (3, 65, 130), (5, 200, 40)):
            images = image(size[0], 3, *size[1:])
            torch.testing.assert_close(compiled(images), model(images))
    assert graphs == 1


def test_a_training_step_is_one_graph_for_square_and_other_sizes() -> None:
    """Up to the graphs of forward and backward: generating code for free sizes takes minutes."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    model = with_offsets(tiny(num_classes=3)).train()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((2, 64, 64), (3, 65, 130)):
        images = image(size[0], 3, *size[1:])
        steps = []
        for step in (compiled, model):
            logits = step(images)
            steps.append((logits, *torch.autograd.grad(logits.square().sum(), tuple(model.parameters()))))
        for got, expected in zip(*steps, strict=True):
            torch.testing.assert_close(
                got, expected, rtol=1e-3, atol=1e-4 * float(expected.detach().abs().max()) + 1e-7
            )
    # Square sizes are one symbol, so the other image is a second graph; neither is cut in two.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize("head", ["conv", "clip"])
def test_exports_with_dynamic_batch_and_size(head: Any) -> None:
    model = with_offsets(tiny(head=head))
    step = 32 if head == "clip" else 1
    height, width = (torch.export.Dim(name, min=64 // step, max=1024 // step) for name in ("rows", "columns"))
    sizes = {0: torch.export.Dim("n", min=1, max=16), 2: step * height, 3: step * width}
    exported = torch.export.export(model, (image(2, 3, 64, 96),), dynamic_shapes=(sizes,)).module()
    for n, h, w in ((1, 64, 64), (3, 96, 160)):
        torch.testing.assert_close(exported(image(n, 3, h, w)), model(image(n, 3, h, w)))
    if head == "conv":
        torch.testing.assert_close(exported(image(1, 3, 71, 93)), model(image(1, 3, 71, 93)))


# The composite backbone


def test_the_composite_backbone_starts_as_its_lead_alone() -> None:
    arguments = {key: value for key, value in TINY.items() if key != "num_classes"}
    torch.manual_seed(0)
    model = CompositeInternImage(**arguments).eval()
    images = image(1, 3, 40, 56)
    assisting, lead = model(images)
    assert [tuple(x.shape) for x in lead] == [(1, 16, 5, 7), (1, 32, 3, 4), (1, 64, 2, 2)]
    torch.testing.assert_close(assisting[2], model.assisting.forward_features(images).permute(0, 3, 1, 2))
    alone = model.lead.forward_stages(model.assisting.stem(images))  # gamma starts at 0
    torch.testing.assert_close(lead, [x.permute(0, 3, 1, 2) for x in alone[1:]])
    model.set_grad_checkpointing()
    assert all(stage.grad_checkpointing for part in (model.assisting, model.lead) for stage in part.stages)
