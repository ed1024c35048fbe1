import importlib.metadata
import sys
from pathlib import Path

import pytest
import torch

from internimage import doctor
from internimage.ops import build, toolchain


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and a loader that has not loaded anything."""
    monkeypatch.setenv("INTERNIMAGE_CACHE", str(tmp_path / "cache"))
    for state in ("_answers", "_problems", "_loaded"):
        monkeypatch.setattr(build, state, {})
    return tmp_path / "cache"


def value_of(name: str) -> str:
    (finding,) = [finding for finding in doctor.examine() if finding.name == name]
    return finding.value


def test_the_report_names_versions_tools_cache_and_packages_and_builds_nothing(cache: Path) -> None:
    text = doctor.report()
    for expected in (torch.__version__, sys.executable, str(cache), toolchain.instruction_set(), "scikit-learn"):
        assert expected in text
    assert not cache.exists()


def test_every_finding_that_needs_a_mend_is_in_the_last_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent")
    findings = doctor.examine()
    _, last = doctor.report().split("What to do\n")
    mends = {finding.mend for finding in findings if finding.mend}
    assert mends
    assert all(mend in last for mend in mends)
    assert any("CXX names the compiler '/nonexistent'" in mend for mend in mends)
    assert value_of("C++ compiler") == "none"
    assert value_of("cpu") == "pure PyTorch"


def test_an_unwritable_cache_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("INTERNIMAGE_CACHE", str(tmp_path / "file" / "cache"))
    assert value_of("writable") == "no"
    assert "Set INTERNIMAGE_CACHE" in doctor.report()


def test_what_breaks_is_reported_and_the_rest_still_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> bool:
        raise OSError("the driver is gone")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    text = doctor.report()
    assert "OSError: the driver is gone" in text
    assert "matplotlib" in text


def test_missing_packages_come_with_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("scikit-learn", "safetensors"):
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    text = doctor.report()
    assert "scikit-learn is missing (optional, for demo): `python -m pip install 'internimage[demo]'`." in text
    assert "safetensors is missing (required): `python -m pip install safetensors`." in text


def test_the_backend_torch_is_shown_with_the_kernels_that_it_leaves_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    from internimage.ops import use_backend

    monkeypatch.setattr(build, "_loaded", {"cpu": Path("library.so")})
    assert value_of("cpu") == "native, loaded: library.so"
    with use_backend("torch"):
        assert value_of("cpu") == "native, loaded: library.so (not used: the backend is torch)"
        assert value_of("backend").startswith("torch")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a compiler on PATH")
def test_on_request_the_kernels_are_built(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "probe_cpu.cpp").write_text("int probe() { return 1; }\n")
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert value_of("cpu") == "native, will be built on first use"
    assert str(cache) in doctor.report(build=True)
    (library,) = cache.glob("*/*" + build.SUFFIX)
    assert value_of("cpu") == f"native, built: {library}"
    assert value_of("holds").startswith("1 libraries")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a compiler on PATH")
def test_a_build_that_fails_on_request_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad_cpu.cpp").write_text("int f() { return undeclared_name; }\n")
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (cpu,) = [finding for finding in doctor.examine(build=True) if finding.name == "cpu"]
    assert cpu.value == "pure PyTorch"
    assert "undeclared_name" in cpu.mend
