"""A package gives the model's numbers within its range, and refuses whatever it wasn't made for."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from internimage import deploy
from internimage.deploy.inputs import check_inputs, describe_inputs
from internimage.layers import DCNv3


class OneLayer(nn.Module):
    """The least that has a convolution and DCNv3, with offsets and masks that are not zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.dcn = DCNv3(16, 2)
        for layer in (self.dcn.offset, self.dcn.mask):
            nn.init.normal_(layer.weight, std=0.3)

    def forward(self, image: Tensor) -> Tensor:
        return self.dcn(self.stem(image).permute(0, 2, 3, 1)).mean((1, 2))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return OneLayer().eval()


@pytest.fixture(scope="module")
def path(model, tmp_path_factory) -> Path:
    program = deploy.export(model, torch.rand(1, 3, 32, 40), batch=(1, 6), height=(16, 64), width=(16, 48))
    return deploy.package(program, tmp_path_factory.mktemp("package") / "new folder" / "model.pt2")


@pytest.fixture(scope="module")
def package(path) -> deploy.Package:
    return deploy.load_package(path)


@pytest.mark.parametrize("shape", [(1, 3, 32, 40), (2, 3, 32, 40), (6, 3, 64, 48), (1, 3, 16, 16), (3, 3, 17, 31)])
def test_a_package_gives_the_models_numbers_within_its_range(model, package, shape):
    image = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(package(image), model(image), atol=1e-5, rtol=1e-5)


def test_the_memory_layout_of_an_input_does_not_matter(model, package):
    image = torch.randn(2, 3, 40, 32)
    with torch.no_grad():
        for same in (image.contiguous(memory_format=torch.channels_last), image.repeat(1, 1, 1, 2)[..., :32]):
            torch.testing.assert_close(package(same), model(image), atol=1e-5, rtol=1e-5)
        transposed = image.transpose(2, 3)
        torch.testing.assert_close(package(transposed), model(transposed), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "shape",
    [(7, 3, 32, 40), (0, 3, 32, 40), (2, 3, 15, 40), (2, 3, 65, 40), (2, 3, 32, 49), (2, 4, 32, 40), (3, 32, 40)],
)
def test_sizes_outside_the_exported_range_are_refused(package, shape):
    with pytest.raises(ValueError, match=r"must be float32 \[1 to 6, 3, 16 to 64, 16 to 48\].*export the model again"):
        package(torch.randn(shape))


def test_another_dtype_device_or_number_of_inputs_is_refused(package):
    image = torch.randn(2, 3, 32, 40)
    with pytest.raises(ValueError, match=r"got dtype float64; convert it with \.to\(torch\.float32\)"):
        package(image.double())
    with pytest.raises(ValueError, match=r"on cpu, got a tensor on meta"):
        package(image.to("meta"))
    with pytest.raises(ValueError, match="expected 1 inputs, got 2"):
        package(image, image)


def test_dimensions_of_one_name_must_be_equal():
    square = deploy.InputSpec("float32", (deploy.Dimension("side", 1, 9), deploy.Dimension("side", 1, 9)))
    check_inputs([torch.zeros(3, 3)], [square], "cpu", "model")
    with pytest.raises(ValueError, match="its 4 must equal 3"):
        check_inputs([torch.zeros(3, 4)], [square], "cpu", "model")


def test_files_that_are_no_packages_are_refused(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        deploy.load_package(tmp_path / "missing.pt2")
    truncated = tmp_path / "truncated.pt2"
    truncated.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="truncated"):
        deploy.load_package(truncated)
    other = tmp_path / "other.pt2"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(ValueError, match="holds no input ranges"):
        deploy.load_package(other)


def with_metadata(path: Path, target: Path, **changes: object) -> Path:
    """A copy of a package, whose metadata say something else."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("metadata.json"):
                stored = json.loads(data)
                stored["internimage"] = json.dumps(json.loads(stored["internimage"]) | changes)
                data = json.dumps(stored).encode()
            copy.writestr(name, data)
    return target


def test_a_package_for_another_version_of_the_operators_is_refused(path, tmp_path):
    assert deploy.load_package(with_metadata(path, tmp_path / "same.pt2")).inputs
    other = with_metadata(path, tmp_path / "other.pt2", operators=["internimage.dcnv3.default"], operator_version=99)
    with pytest.raises(ValueError, match="calls version 99 of the operators"):
        deploy.load_package(other)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_package_for_a_missing_device_is_refused(path, tmp_path):
    with pytest.raises(ValueError, match="compiled for cuda, which is not available"):
        deploy.load_package(with_metadata(path, tmp_path / "cuda.pt2", device="cuda"))


def test_sizes_are_fixed_unless_a_range_is_given(model):
    program = deploy.export(model, torch.rand(2, 3, 32, 32), batch=None)
    assert describe_inputs(program) == (deploy.InputSpec("float32", (2, 3, 32, 32), "image"),)
    program = deploy.export(model, torch.rand(2, 3, 32, 32), batch=(4, 8))
    (spec,) = describe_inputs(program)
    assert isinstance(spec.shape[0], deploy.Dimension)
    assert (spec.shape[0].min, spec.shape[0].max, *spec.shape[1:]) == (4, 8, 3, 32, 32)


def test_what_cant_be_exported_safely_is_refused(model, tmp_path):
    image = torch.rand(2, 3, 32, 32)
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        deploy.export(OneLayer().train(), image)
    with pytest.raises(ValueError, match=r"expected an example \[N, C, H, W\], got shape \[3, 32, 32\]"):
        deploy.export(model, image[0])
    for ranges in ({"batch": (5, 3)}, {"batch": (0, 3)}, {"height": (64, 128)}):
        with pytest.raises(ValueError, match=f"{next(iter(ranges))} must be a range"):
            deploy.export(model, image, **ranges)
    sizes = ({2: 8 * torch.export.Dim("eighth", min=2, max=9)},)
    program = torch.export.export(model, (image,), dynamic_shapes=sizes)
    with pytest.raises(ValueError, match="export with plain ranges"):
        deploy.package(program, tmp_path / "a.pt2")
    with pytest.raises(ValueError, match=r"must end in \.pt2"):
        deploy.package(program, tmp_path / "a.zip")
