"""The prepared copy gives the model's numbers, and goes wherever the model goes."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import internimage
from internimage import CompositeInternImage, InternImage, deploy, prepare_for_inference
from internimage.backbone import InternImageFeatures
from internimage.models import variant_arguments
from internimage.ops import use_backend
from internimage.variants import VARIANTS

FORMS = {
    name: variant_arguments(VARIANTS[f"internimage_{name}"]) for name in ("t", "s", "l", "h", "g")
} | {  # the detectors of T have a layer scale before which no norm stands
    "t of detectors": variant_arguments(VARIANTS["internimage_t"], dense=True),
    "centre removed": {"remove_center": True},
}


def reduced(arguments: dict[str, Any], kind: type = InternImage, **more: Any) -> Any:
    """A variant's structure at small size, all of whose parameters count."""
    torch.manual_seed(0)
    level2 = (0,) if arguments.get("level2_post_norm_block_ids") else ()
    small = {"channels": 20, "depths": (1, 1, 2, 1), "groups": (2, 4, 8, 16), "level2_post_norm_block_ids": level2}
    model = kind(**(arguments | small | more)).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, std=0.5)
        elif ".offset." in name or ".mask." in name or ".center_scale." in name:
            nn.init.normal_(parameter, std=0.1)
    for buffer in model.buffers():
        if buffer.ndim:
            nn.init.uniform_(buffer, 0.5, 2.0)
    return model


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_same(model: nn.Module, prepared: nn.Module, x: Tensor) -> None:
    got, found = prepared(x), model(x)
    expected = copy.deepcopy(model).double()(x.double())
    for one, same, exact in zip(*(torch.utils._pytree.tree_leaves(y) for y in (got, found, expected)), strict=True):
        assert one.shape == exact.shape
        scale = exact.abs().max()
        assert (one - exact).abs().max() / scale < 2 * (same - exact).abs().max() / scale + 2e-6


@pytest.mark.parametrize("form", FORMS)
def test_every_variant_gives_the_same_numbers(form: str) -> None:
    model = reduced(FORMS[form])
    assert_same(model, prepare_for_inference(model), images(2, 3, 96, 64))


def test_odd_sizes_other_channels_and_no_head() -> None:
    model = reduced(FORMS["s"], in_chans=4, head=None)
    prepared = prepare_for_inference(model)
    for size in ((33, 70), (1, 1)):
        assert_same(model, prepared, images(1, 4, *size))
    assert prepared(images(0, 4, 32, 32)).shape == (0, 160)


def test_stage_maps() -> None:
    model = reduced(FORMS["t of detectors"], InternImageFeatures, out_indices=(1, 3))
    prepared = prepare_for_inference(model)
    assert_same(model, prepared, images(1, 3, 64, 96))
    with torch.no_grad():
        for one, other in zip(
            prepared.forward_intermediates(images(1, 3, 64, 96), intermediates_only=True),
            model.forward_intermediates(images(1, 3, 64, 96), intermediates_only=True),
            strict=True,
        ):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * other.abs().max().item())


def test_the_composite_backbone() -> None:
    arguments = {key: value for key, value in FORMS["h"].items() if key != "head"}
    model = reduced(arguments, CompositeInternImage)
    assert_same(model, prepare_for_inference(model), images(1, 3, 64, 64))


def test_a_batch_norm_and_a_fresh_classifier() -> None:
    model = reduced(FORMS["t"])
    model.reset_classifier(7)
    prepared = prepare_for_inference(model)
    assert prepared.get_classifier() is not model.get_classifier()
    with torch.no_grad():
        assert prepared(images(1, 3, 32, 32)).shape == (1, 7)
        assert prepared.forward_head(prepared.forward_features(images(1, 3, 32, 32)), pre_logits=True).shape == (1, 240)


def test_flops_stay() -> None:
    model = reduced(FORMS["s"])
    counts = []
    for candidate in (model, prepare_for_inference(model)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            candidate(images(1, 3, 64, 64))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


def test_the_model_itself_stays_as_it_is() -> None:
    model = reduced(FORMS["s"]).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prepared = prepare_for_inference(model)
    assert model.training
    assert not any(module.training for module in prepared.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in prepared.parameters())
    with torch.no_grad():
        for tensor in (*prepared.parameters(), *prepared.buffers()):
            tensor.zero_()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_it_compiles_to_one_graph() -> None:
    torch._dynamo.reset()
    model = reduced(FORMS["h"])
    with torch.no_grad():
        compiled = torch.compile(prepare_for_inference(model), fullgraph=True)
        expected = model(images(2, 3, 64, 64))
        torch.testing.assert_close(compiled(images(2, 3, 64, 64)), expected, rtol=1e-3, atol=1e-4)


def test_it_packages(tmp_path: Path) -> None:
    model = reduced(FORMS["t"])
    program = deploy.export(prepare_for_inference(model), images(2, 3, 64, 64), batch=(1, 8), height=(48, 96))
    package = deploy.load_package(deploy.package(program, tmp_path / "model.pt2"))
    for shape in ((1, 3, 64, 64), (5, 3, 49, 64)):
        with torch.no_grad():
            torch.testing.assert_close(package(images(*shape)), model(images(*shape)), rtol=1e-3, atol=1e-4)


def test_training_and_loading_are_refused() -> None:
    model = reduced(FORMS["t"])
    prepared = prepare_for_inference(model)
    assert prepared.eval() is prepared
    with pytest.raises(RuntimeError, match="can't be trained; train the model it was made from"):
        prepared.train()
    with pytest.raises(RuntimeError, match="takes no weights; load them into the model"):
        prepared.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match="have no gradients"):
        prepared(images(1, 3, 32, 32).requires_grad_())


def test_what_cannot_be_prepared_is_named() -> None:
    with pytest.raises(TypeError, match="got Linear; prepare the backbone inside"):
        prepare_for_inference(nn.Linear(2, 2))  # type: ignore[type-var]
    with pytest.raises(ValueError, match=r"got stem.conv1.weight as torch.bfloat16 on cpu; call model.float\(\).cpu"):
        prepare_for_inference(reduced(FORMS["t"]).bfloat16())


def test_images_of_another_dtype_are_refused() -> None:
    with (
        pytest.raises(RuntimeError, match=r"must be float32; a prepared model takes images\.float\(\)"),
        torch.no_grad(),
    ):
        prepare_for_inference(reduced(FORMS["t"]))(images(1, 3, 32, 32).double())


def test_preparing_twice_changes_nothing() -> None:
    model = reduced(FORMS["t"])
    assert_same(model, prepare_for_inference(prepare_for_inference(model)), images(1, 3, 32, 32))


def test_without_kernels_it_is_a_plain_copy() -> None:
    model = reduced(FORMS["t"])
    with use_backend("torch"):
        prepared = prepare_for_inference(model)
        assert type(prepared.stem) is type(model.stem)
        assert_same(model, prepared, images(1, 3, 32, 32))


def test_the_backend_can_change_after_preparation() -> None:
    model = reduced(FORMS["g"])
    prepared = prepare_for_inference(model)
    with use_backend("torch"):
        assert_same(model, prepared, images(1, 3, 64, 64))


def test_it_is_public() -> None:
    assert internimage.prepare_for_inference is prepare_for_inference
