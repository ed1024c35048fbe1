"""Compiling by blocks, and taking the compiler's work along."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from internimage import InternImage, create_model, deploy, prepare_for_inference


@pytest.fixture
def model() -> InternImage:
    torch.manual_seed(0)
    return create_model("internimage_atto", channels=16, depths=(2, 1, 3, 1), groups=(1, 2, 4, 8), num_classes=5).eval()


@pytest.mark.parametrize("prepared", [False, True])
@torch.no_grad()
def test_the_blocks_of_a_stage_share_a_graph(model: InternImage, prepared: bool) -> None:
    torch._dynamo.reset()
    image = torch.randn(2, 3, 64, 64)
    expected = model(image)
    if prepared:
        model = prepare_for_inference(model)
    graphs: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, example: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    assert deploy.compile_blocks(model, backend=count) == 7
    torch.testing.assert_close(model(image), expected, atol=1e-4, rtol=1e-4)
    assert len(graphs) == 4
    for height, width, count_so_far in ((96, 128, 8), (70, 75, 8), (160, 64, 8)):
        model(torch.randn(2, 3, height, width))
        assert len(graphs) == count_so_far


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="no block of InternImage"):
        deploy.compile_blocks(torch.nn.Conv2d(3, 3, 1))


_COMPILE = """
import sys, torch
from torch._dynamo.utils import counters
from internimage.deploy import load_compiled, save_compiled
if sys.argv[1] == "load":
    load_compiled(sys.argv[2])
print(float(torch.compile(lambda x: x @ x)(torch.ones(9, 9)).sum()))  # needs no C++ compiler
print(counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"])
if sys.argv[1] == "save":
    save_compiled(sys.argv[2])
"""


@pytest.mark.once
def test_another_machine_of_its_kind_finds_the_graph_compiled(tmp_path: Path) -> None:
    results = []
    for action in ("save", "load"):
        caches = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / action)}  # each has its own
        command = [sys.executable, "-c", _COMPILE, action, str(tmp_path / "compiled")]
        result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **caches})
        assert result.returncode == 0, result.stderr[-2000:]
        results.append(result.stdout.splitlines())
    assert results[0][0] == results[1][0]
    assert (results[0][1], results[1][1]) == ("0 1", "1 0")


@pytest.mark.once
def test_what_was_compiled_elsewhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "compiled"
    path.write_bytes(b'{"torch": "1.13.0", "platform": "plan9", "processor": "", "device": ""}\nprogram')
    with pytest.raises(ValueError, match=r"was made for torch 1\.13\.0 instead of .*, platform plan9 instead of"):
        deploy.load_compiled(path)
    path.write_bytes(b"\x00\x01")
    with pytest.raises(ValueError, match="not a file of save_compiled"):
        deploy.load_compiled(path)
