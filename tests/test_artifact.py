"""An artifact gives the model's numbers, in Python and in C++, and refuses whatever it wasn't made for."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import artifacts
import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

import internimage.deploy
from internimage.deploy import Deployed, DeployedDetector, load_artifact, save_artifact
from internimage.ops import toolchain
from internimage.tasks import cli, exportable

RUNNER = Path(internimage.deploy.__file__).parent / "runner"
KINDS = ("classification", "segmentation", "detection")


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifacts.artifact(tmp_path_factory, "classification")


@pytest.fixture
def copy(classifier: Path, tmp_path: Path) -> Path:
    """The classifier's artifact, to be damaged."""
    return Path(shutil.copytree(classifier, tmp_path / "copy"))


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the C++ programs."""
    for tool in ("cmake", "g++", "make"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}: apt-get install cmake g++ make")

    def build(folder: Path) -> None:
        options = [f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}", "-DCMAKE_BUILD_TYPE=Debug"]
        for command in (["cmake", "-S", RUNNER, "-B", folder, *options], ["cmake", "--build", folder]):
            result = subprocess.run(command, capture_output=True, text=True)
            assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]

    return artifacts.once(tmp_path_factory, "programs", build)


@pytest.fixture(scope="session")
def picture() -> NDArray[np.uint8]:
    """Smooth colours and noise, uint8 [H, W, 3]."""
    y, x = np.mgrid[:75, :110]
    waves = np.stack([np.sin(x / 9) + np.cos(y / 7), np.sin(x * y / 400), np.cos((x + y) / 11)], axis=-1)
    noise = np.random.default_rng(0).normal(0, 0.1, waves.shape)
    return ((waves + noise) * 60 + 128).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (6, 3, 97, 201), (2, 3, 256, 33)])
def test_an_artifact_gives_the_models_numbers_within_its_range(classifier: Path, shape: tuple[int, ...]) -> None:
    model = Deployed(artifacts.exportables()["classification"].model, pixels="uint8").eval()
    image = torch.randint(0, 256, shape, dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(load_artifact(classifier)(image), model(image), atol=1e-5, rtol=1e-5)


def test_its_sample_tells_whether_it_runs_well(classifier: Path, copy: Path, capsys: Any) -> None:
    assert load_artifact(classifier).difference() < 1e-5
    assert cli.main(["run", str(classifier)]) == 0
    assert "sample: differs from the model by" in capsys.readouterr().out
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["outputs"], stored = ["other"], load_artifact(copy).sample()
    save_file({"input.image": stored[0][0], "output.other": stored[1][0] + 1}, copy / "sample.safetensors")
    manifest["sizes"]["sample.safetensors"] = (copy / "sample.safetensors").stat().st_size
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert cli.main(["run", str(copy)]) == 1


def test_numbers_that_are_not_finite_never_agree_and_order_counts_where_it_means_something(classifier: Path) -> None:
    artifact = load_artifact(classifier)
    _, (logits,) = artifact.sample()
    broken = logits.clone()
    broken[0, 1] = float("nan")
    swapped = logits.flip(1)
    for manifest, output, expected in (
        (artifact.manifest, broken, math.inf),
        (artifact.manifest, logits[:, :2], math.inf),
        (artifact.manifest, swapped, float((swapped - logits).abs().max() / logits.abs().max())),
        (replace(artifact.manifest, unordered=True), swapped, 0.0),
    ):
        assert replace(artifact, manifest=manifest, model=lambda _, x=output: [x]).difference() == pytest.approx(
            expected
        )


def change(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "manifest.json"
        content = json.loads(path.read_text())
        for name, value in changes.items():
            entry, _, key = name.partition("__")
            if key:
                content[entry][key] = value
            else:
                content[entry] = value
        path.write_text(json.dumps(content))

    return damage


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-1000])


def overwrite(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return damage


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


# What is wrong, and what Python and C++ say of it.
DAMAGES = {
    "no manifest": (remove("manifest.json"), "not a deployed model: it has no manifest.json"),
    "a cut manifest": (cut("manifest.json"), "damaged"),
    "another layout": (change(layout=2), "has layout 2, expected 1"),
    "another torch": (change(versions__torch="1.13.0"), "was compiled by torch 1.13.0, this is torch"),
    "another platform": (change(platform="plan9-mips"), f"for plan9-mips, this is {toolchain.platform_name()}"),
    "a foreign processor": (change(capabilities=["avx2", "avx9000"]), "for a processor with .*avx9000"),
    "no versions": (change(versions=None), "damaged"),
    "a truncated sample": (cut("sample.safetensors"), "sample.safetensors: truncated"),
    "a truncated package": (cut("model.pt2"), "truncated: it has .* bytes, expected"),
    "no package": (remove("model.pt2"), "is missing; copy the folder again"),
    "no operators' library": (remove("libinternimage.so"), "the operators' library is missing"),
    "another operators' library": (overwrite("libinternimage.so"), "is not the operators' library that the model was"),
}
if not torch.cuda.is_available():
    DAMAGES["a device that is not here"] = (change(device="cuda"), "was made for cuda, which is not available here")


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_or_was_made_for_another_machine_is_refused(name: str, copy: Path) -> None:
    damage, message = DAMAGES[name]
    damage(copy)
    with pytest.raises(ValueError, match=message):
        load_artifact(copy)


def test_another_version_of_the_operators_or_format_is_refused(copy: Path) -> None:
    for changes, message in (
        ({"operators__version": 99}, "calls version 99 of the operators"),
        ({"format": "tape"}, "format 'tape' is unknown"),
    ):
        change(**changes)(copy)
        with pytest.raises(ValueError, match=message):
            load_artifact(copy)


def test_sizes_outside_the_range_are_refused(classifier: Path) -> None:
    artifact = load_artifact(classifier)
    for shape in ((7, 3, 64, 64), (1, 3, 31, 64), (1, 3, 64, 257), (3, 64, 64)):
        with pytest.raises(ValueError, match=r"must be uint8 \[1 to 6, 3, 32 to 256, 32 to 256\]"):
            artifact(torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(ValueError, match="got dtype float32"):
        artifact(torch.zeros(1, 3, 64, 64))


@pytest.mark.once
def test_a_graph_runs_without_this_package_and_with_the_folders_own_operators(tmp_path: Path) -> None:
    source = artifacts.exportables()["classification"]
    folder = exportable.save_artifact(source, tmp_path / "graph", format="pt2", height=(32, 99), width=(32, 99))
    assert load_artifact(folder).difference() < 1e-5
    script = f"""
import sys, torch
from safetensors.torch import load_file
torch.ops.load_library({str(folder / "libinternimage.so")!r})
sample = load_file({str(folder / "sample.safetensors")!r})
(logits,) = torch.export.load({str(folder / "model.pt2")!r}).module()(sample["input.image"])
torch.testing.assert_close(logits, sample["output.logits"], atol=1e-5, rtol=1e-5)
assert "internimage" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize("pixels", ["uint8", "0-255", "0-1"])
def test_every_form_of_pixels_gives_the_same(pixels: exportable.Pixels, picture: NDArray[np.uint8]) -> None:
    results = {}
    for kind, source in artifacts.exportables().items():
        wrapper = DeployedDetector if source.padded else Deployed
        for form in ("normalised", pixels):
            task = {"pixels": form, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], **source.task}
            inputs = exportable.picture_inputs(picture, task)
            with torch.no_grad():
                results[form] = wrapper(source.model, pixels=form).eval()(*inputs)
        torch.testing.assert_close(results[pixels], results["normalised"], atol=1e-4, rtol=1e-4, msg=kind)


@pytest.mark.once
@pytest.mark.parametrize(
    ("height", "width", "seen", "image"),
    [
        ((32, 256), (32, 256), (90, 120), (96, 128)),  # the view's bounds
        ((32, 80), (32, 256), (64, 85), (64, 96)),  # the largest multiple of 32 within
        ((32, 256), (40, 50), (30, 40), (32, 40)),
        ((224, 224), (160, 160), (90, 120), (224, 160)),
    ],
)
def test_a_picture_becomes_an_image_within_the_range(
    height: exportable.Range, width: exportable.Range, seen: Any, image: Any, tmp_path: Path
) -> None:
    for kind in ("segmentation", "detection"):
        source = artifacts.exportables()[kind]
        folder = exportable.save_artifact(source, tmp_path / kind, format="pt2", batch=None, height=height, width=width)
        (found, *sizes), _ = load_artifact(folder).sample()
        assert found.shape[2:] == image
        assert [tuple(x[0].tolist()) for x in sizes] == [seen] * source.padded


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_reduced_precision_takes_and_gives_float32(precision: exportable.Precision, tolerance: float) -> None:
    image = torch.rand(2, 3, 64, 64)
    exact, reduced = (
        Deployed(artifacts.exportables()["classification"].model, pixels="0-1", precision=p).eval()
        for p in ("float32", precision)
    )
    assert next(reduced.model.parameters()).dtype == getattr(torch, precision)
    with torch.no_grad():
        (expected,), (got,) = exact(image), reduced(image)
    assert got.dtype == torch.float32
    assert 0 < float((got - expected).abs().max() / expected.abs().max()) < tolerance


def test_what_cant_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    model, image = artifacts.exportables()["segmentation"].model, torch.rand(1, 3, 32, 32)
    with pytest.raises(ValueError, match="holds something else than a deployed model"):
        save_artifact(Deployed(model).eval(), image, tmp_path)
    with pytest.raises(ValueError, match="has 1 outputs, got 2 names"):
        save_artifact(Deployed(model).eval(), image, tmp_path / "new", outputs=("a", "b"))
    small = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1, stride=32), torch.nn.Conv2d(3, 3, 3, padding=1))
    with pytest.raises(ValueError, match="not the same graph for all sizes of height"):
        save_artifact(Deployed(small).eval(), torch.rand(1, 3, 64, 64), tmp_path / "new", height=(32, 99))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt"]


@pytest.fixture(scope="session")
def cases(
    tmp_path_factory: pytest.TempPathFactory, programs: Path, picture: NDArray[np.uint8]
) -> dict[str, tuple[Path, Path]]:
    """Of each kind an artifact, and a folder with nothing but that artifact and two pictures of the same name."""
    found = {}
    for kind in KINDS:
        path = artifacts.artifact(tmp_path_factory, kind)
        alone = tmp_path_factory.mktemp("alone")
        shutil.copytree(path, alone / "artifact")
        (alone / "more").mkdir()
        cv2.imwrite(str(alone / "picture.png"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        cv2.imwrite(str(alone / "more" / "picture.png"), picture[::2, ::-1])
        found[kind] = (path, alone)
    return found


def call(program: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a C++ program in a folder, with an empty environment."""
    return subprocess.run([program, *arguments], cwd=folder, env={}, capture_output=True, text=True)


@pytest.mark.once
def test_nothing_that_cpp_runs_needs_python(programs: Path, classifier: Path) -> None:
    for file in (programs / "internimage_run", programs / "internimage_load", classifier / "libinternimage.so"):
        lines = subprocess.run(["ldd", file], capture_output=True, text=True).stdout.splitlines()
        libraries = [line.split()[0] for line in lines]
        assert "libtorch_cpu.so" in libraries
        assert not [name for name in libraries if "python" in name]


@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
def test_the_cpp_program_gives_the_numbers_of_the_sample(kind: str, cases: Any, programs: Path) -> None:
    _, alone = cases[kind]
    result = call(programs / "internimage_run", alone, "artifact")
    assert result.returncode == 0, result.stderr
    assert float(result.stdout.partition("by ")[2].split()[0]) < 1e-5


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "other", "unordered", "expected"),
    [
        ("boxes", lambda x: x.index_fill(1, torch.tensor(1), math.nan), False, math.inf),
        ("scores", lambda x: x.index_fill(1, torch.tensor(1), math.inf), True, math.inf),
        ("masks", lambda x: x[:, :, 1:], False, math.inf),
        ("labels", lambda x: x.index_fill(1, torch.tensor(0), 1), False, 1 / 3),
        ("labels", lambda x: x.flip(1), True, 0),
    ],
)
def test_the_cpp_program_compares_outputs_as_python_does(
    name: str, other: Any, unordered: bool, expected: float, cases: Any, programs: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(cases["detection"][0], tmp_path / "copy"))
    stored = load_file(folder / "sample.safetensors")
    stored[f"output.{name}"] = other(stored[f"output.{name}"]).contiguous()
    save_file(stored, folder / "sample.safetensors")
    size = (folder / "sample.safetensors").stat().st_size
    change(**{"unordered": unordered, "sizes__sample.safetensors": size})(folder)
    assert load_artifact(folder).difference() == pytest.approx(expected, abs=1e-5)
    result = call(programs / "internimage_run", tmp_path, "copy")
    assert (result.returncode, result.stderr) == (int(expected > 0), "")
    assert float(result.stdout.partition("by ")[2].split()[0]) == pytest.approx(expected, rel=0.05, abs=1e-5)


@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
def test_the_cpp_program_says_the_same_of_a_picture_as_python(
    kind: str, cases: Any, programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    artifact, alone = cases[kind]
    pictures = ("picture.png", "more/picture.png", "picture.png")
    result = call(programs / "internimage_run", alone, "artifact", *pictures, "--json", "--output", "labels")
    needs_opencv(result)
    assert result.returncode == 0, result.stderr
    monkeypatch.chdir(alone)
    assert cli.main(["run", str(artifact), *pictures, "--json", "--output", str(tmp_path)]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert json.loads(result.stdout) == approximately(expected)
    written, found = (
        {path.name: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in folder.iterdir()}
        for folder in (tmp_path, alone / "labels")
    )
    assert found.keys() == written.keys() == (set() if kind == "classification" else {"picture.png", "picture-2.png"})
    for name, labels in written.items():
        assert len(np.unique(labels)) > 1
        np.testing.assert_array_equal(found[name], labels)
    text = call(programs / "internimage_run", alone, "artifact", "picture.png").stdout
    assert cli.main(["run", str(artifact), "picture.png"]) == 0
    assert text == capsys.readouterr().out


def needs_opencv(result: subprocess.CompletedProcess[str]) -> None:
    if "built without OpenCV" in result.stderr:
        pytest.skip("needs OpenCV for C++: apt-get install libopencv-dev")


@pytest.mark.once
def test_the_cpp_program_overwrites_no_picture_and_tells_what_it_cannot_write(
    cases: Any, programs: Path, tmp_path: Path
) -> None:
    artifact, alone = cases["segmentation"]
    source, full = tmp_path / "picture.png", tmp_path / "full" / "picture.png"
    shutil.copy(alone / "picture.png", source)
    full.parent.mkdir()
    full.symlink_to("/dev/full")
    for output, message in (
        (".", "full/../picture.png lies in the folder for results, ., and could be replaced"),
        ("full", "full/picture.png: can't be written: No space left on device"),
    ):
        result = call(programs / "internimage_run", tmp_path, str(artifact), "full/../picture.png", "--output", output)
        needs_opencv(result)
        assert result.returncode == 1
        assert message in result.stderr
    assert source.read_bytes() == (alone / "picture.png").read_bytes()


def approximately(content: Any) -> Any:
    """What equals it up to rounding."""
    if isinstance(content, dict):
        return {key: approximately(value) for key, value in content.items()}
    if isinstance(content, list):
        return [approximately(value) for value in content]
    return pytest.approx(content, rel=1e-4, abs=1e-4) if isinstance(content, float) else content


@pytest.mark.once
@pytest.mark.parametrize("name", DAMAGES)
def test_the_cpp_program_refuses_the_same(name: str, copy: Path, programs: Path) -> None:
    damage, message = DAMAGES[name]
    damage(copy)
    result = call(programs / "internimage_run", copy.parent, copy.name)
    assert result.returncode == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(result.stderr)


@pytest.mark.once
@pytest.mark.parametrize(
    ("program", "words", "message"),
    [
        ("run", ["--threshold", "abc"], '--threshold must be a number from 0 to 1, got "abc"'),
        ("run", ["--threshold", "7"], '--threshold must be a number from 0 to 1, got "7"'),
        ("run", ["--threads", "2x"], '--threads must be a whole number from 1 to 1024, got "2x"'),
        ("load", ["--runners", "0"], '--runners must be a whole number from 1 to 1024, got "0"'),
        ("load", ["--requests", "0"], '--requests must be a whole number from 1 to 100000000, got "0"'),
        ("load", ["--batch", "1.5"], '--batch must be a whole number from 1 to 1000000, got "1.5"'),
        ("load", ["--size", "abc"], '--size must be HEIGHTxWIDTH, such as 224x320, got "abc"'),
        ("load", ["--size", "64x"], '--size must be a whole number from 1 to 1000000, got ""'),
    ],
)
def test_the_cpp_programs_refuse_a_wrong_number(program: str, words: list[str], message: str, programs: Path) -> None:
    result = call(programs / f"internimage_{program}", programs, ".", *words)
    assert (result.returncode, result.stderr) == (1, f"internimage_{program}: error: {message}\n")


@pytest.mark.once
def test_the_cpp_program_refuses_sizes_outside_the_range(classifier: Path, programs: Path) -> None:
    result = call(programs / "internimage_load", classifier, ".", "--size", "64x300")
    assert result.returncode == 1
    assert "must be uint8 [1 to 6, 3, 32 to 256, 32 to 256] on cpu, got [1, 3, 64, 300]" in result.stderr


@pytest.mark.once
@pytest.mark.parametrize(
    ("kind", "batch", "sizes"),
    [
        ("classification", 4, ("32x32", "64x100", "97x33")),
        ("segmentation", 1, ("256x96", "192x100", "225x77")),  # its outputs have a quarter of a MiB
    ],
)
def test_concurrent_requests_of_mixed_sizes_get_the_same_answers_and_leave_nothing_in_memory(
    kind: str, batch: int, sizes: tuple[str, ...], cases: Any, programs: Path
) -> None:
    words = [word for size in sizes for word in ("--size", size)]
    arguments = [".", "--runners", "2", "--requests", "1000", "--batch", str(batch), *words]
    result = call(programs / "internimage_load", cases[kind][0], *arguments)
    assert result.returncode == 0, result.stderr
    counts = json.loads(result.stdout)
    assert (counts["requests"], counts["errors"], counts["wrong"]) == (1000, 0, 0)
    assert counts["end_mib"] - counts["warm_mib"] < 16
