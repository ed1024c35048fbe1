"""Imports point one way: ops <- backbone <- heads <- recipes <- command line."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"internimage": ROOT / "internimage", "internimage.tasks": ROOT / "tasks"}
# Data: no torch.
STANDALONE = {"variants.py", "scaling.py", "released.py", "imagenet.py", "configs.py", "class_names.py"}


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *(part for part in parts if part != "__init__"))), path


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_module_imports_only_what_stands_below_it(module: str, path: Path) -> None:
    names = imports(path)
    assert not any(inside(name, outer) for name in names for outer in ("tests", "bench", "tasks"))
    if inside(module, "internimage.ops"):
        ours = {name for name in names if inside(name, "internimage")}
        assert all(inside(name, "internimage.ops") or inside(name, "internimage._version") for name in ours)
    if not inside(module, "internimage.tasks") and module != "internimage.__main__":
        assert not any(inside(name, "internimage.tasks") for name in names)
    if inside(module, "internimage.tasks") and module.count(".") >= 3:
        own = ".".join(module.split(".")[:3])
        others = {name for name in names if inside(name, "internimage.tasks") and not inside(name, own)}
        folders = {f"internimage.tasks.{folder.name}" for folder in (ROOT / "tasks").iterdir() if folder.is_dir()}
        shared = {"internimage.tasks.training", "internimage.tasks.layers"}  # they know no task
        assert not any(inside(name, folder) for name in others for folder in folders - shared)
    if path.name in STANDALONE:
        assert not any(inside(name, "torch") for name in names)


def test_every_package_is_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        ".".join((package, *path.parent.relative_to(folder).parts))
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*.py")
    }
    assert folders == set(settings["packages"])
