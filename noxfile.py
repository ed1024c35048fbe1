"""Every check that a developer or CI runs, and the demo; each session sets itself up."""

import nox

nox.options.sessions = ["lint", "test"]
nox.options.error_on_missing_interpreters = True

OLDEST_TORCH = "torch==2.13.0"


@nox.session
def demo(session: nox.Session) -> None:
    """Train on handwritten digits, predict, compile, deploy; pictures and figures go to demo/."""
    session.install(".[demo]", OLDEST_TORCH)
    session.run("internimage", "demo", "--output", "demo", *session.posargs)


@nox.session
@nox.parametrize("torch", [nox.param([OLDEST_TORCH], id="oldest"), nox.param(["torch", "torchvision"], id="newest")])
def test(session: nox.Session, torch: list[str]) -> None:
    """The test suite, on the oldest and on the newest torch; the latter has torchvision as an oracle.

    What doesn't depend on torch's version, and slow tests of which there is a quicker like, run with the newest alone.
    """
    session.install("--upgrade", "-e", ".[test]", *torch)
    session.install("--no-deps", "timm")  # for its lists of ImageNet classes; the package itself is not imported
    choice = ["-m", "not once"] if torch == [OLDEST_TORCH] else []
    session.run("pytest", "-n", "2", *choice, *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
def lint(session: nox.Session) -> None:
    """ruff on everything, and mypy on the installed package: it can't follow an editable install into tasks/."""
    session.install(".[demo]", "ruff", "mypy", OLDEST_TORCH)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    settings = f"--config-file={session.invoked_from}/pyproject.toml"
    session.chdir(session.create_tmp())
    session.run("mypy", settings, "-p", "internimage")


@nox.session
def bench(session: nox.Session) -> None:
    """Ratios of speed and memory, an hour or more; tables on screen, figures in .benchmarks/latest.json."""
    session.install("--upgrade", "-e", ".[test]", "torch", "torchvision")
    # The last takes most of the time.
    names = ("dcnv3_kernel", "dcnv3", "ms_deform_attn", "roi_align", "mask_rcnn", "training", "memory", "backbone")
    arguments = session.posargs or [f"bench/{name}.py" for name in names]
    session.run("pytest", "--benchmark-json=.benchmarks/latest.json", *arguments, env={"OMP_NUM_THREADS": "1"})


@nox.session
def small_data(session: nox.Session) -> None:
    """Train small models from scratch, and fine-tune, on a folder of images: `nox -s small_data -- photos`; hours."""
    (data,) = session.posargs
    session.install("--upgrade", ".[demo]", "torch", "torchvision", "timm")
    for name in ("from_scratch", "fine_tuning"):
        session.run("python", f"bench/{name}.py", "--data", data, "--output", f".benchmarks/{name}")
