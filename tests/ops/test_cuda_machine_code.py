"""What nvcc makes of the CUDA kernels, for every architecture: registers, memory, the width of loads, calls."""

import importlib.util
import itertools
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from internimage.ops import toolchain
from internimage.ops.build import SOURCES

pytestmark = pytest.mark.once

# Of each source, the template argument of the kernels that lay taps or points out to be under way together.
LAID_OUT = {"dcnv3": "true", "ms_deform_attn": "2"}
IN_ORDER = {"dcnv3": "dcnv3_backward_input_in_order", "ms_deform_attn": "ms_deform_attn_backward_value_in_order"}
SIZES = {"float": 4, "__half": 2, "__nv_bfloat16": 2, "double": 8}  # bytes of an element
# As torch compiles: without the operators and implicit conversions of the halves.
HALVES = [
    f"-D__CUDA_NO_{name}__"
    for name in ("HALF_OPERATORS", "HALF_CONVERSIONS", "HALF2_OPERATORS", "BFLOAT16_CONVERSIONS")
]


@dataclass(frozen=True)
class Kernel:
    """One kernel of a compiled file."""

    name: str  # without the namespace
    dtype: str
    lanes: int  # 0 for the kernel that has none
    laid_out: bool  # 3x3 taps, or two points at a time
    registers: int
    local_bytes: tuple[int, int, int]  # stack, spill stores, spill loads
    instructions: list[str]  # names, with their modifiers

    @property
    def load_bits(self) -> int:
        """Of the channels that a thread takes at once."""
        return 8 * self.lanes * SIZES[self.dtype]

    def count(self, pattern: str) -> int:
        return sum(re.fullmatch(pattern, instruction) is not None for instruction in self.instructions)


@pytest.fixture(scope="module")
def toolkit() -> toolchain.CudaToolkit:
    found = next(filter(None, map(toolchain._inspect_cuda_root, toolchain._cuda_roots())), None)
    if found is None:
        pytest.skip("needs nvcc: pip install 'internimage[cuda-build]', or a CUDA toolkit and CUDA_HOME")
    return found


@pytest.fixture(scope="module")
def disassembler(toolkit: toolchain.CudaToolkit) -> str:
    """The program nvdisasm: on PATH, of the toolkit, or of the packages triton and nvidia-cuda-nvdisasm."""
    folders = [toolkit.root / "bin"]
    for package, inside in (("triton", "backends/nvidia/bin"), ("nvidia", "cu*/bin")):
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations or () if spec else ():
            folders += Path(folder).glob(inside)
    programs = [shutil.which("nvdisasm"), *(shutil.which("nvdisasm", path=str(folder)) for folder in folders)]
    found = next(filter(None, programs), None)
    if found is None:
        pytest.skip(
            "needs nvdisasm: pip install nvidia-cuda-nvdisasm, or a CUDA build of PyTorch, which brings triton's"
        )
    return found


def nvcc(toolkit: toolchain.CudaToolkit, source: str, result: Path, *flags: str) -> str:
    """Compiles the kernels of a source; what nvcc said."""
    command = [str(toolkit.nvcc), "-std=c++17", *HALVES, f"-I{toolkit.include}", *flags]
    command += [str(SOURCES / f"{source}.cu"), "-o", str(result)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@dataclass(frozen=True)
class Compiled:
    """The kernels of a source, compiled for an architecture."""

    source: str
    architecture: str
    kernels: list[Kernel]

    def __iter__(self) -> Iterator[Kernel]:
        return iter(self.kernels)


@pytest.fixture(scope="module", params=itertools.product(LAID_OUT, toolchain.CUDA_ARCHITECTURES), ids="-".join)
def compiled(
    request: pytest.FixtureRequest,
    toolkit: toolchain.CudaToolkit,
    disassembler: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Compiled:
    source, architecture = request.param
    if architecture not in toolkit.architectures():
        pytest.skip(f"the nvcc of CUDA {toolkit.version} does not know the architecture {architecture}")
    cubin = tmp_path_factory.mktemp("machine-code") / f"{source}.cubin"
    said = nvcc(toolkit, source, cubin, "-cubin", f"-arch=sm_{architecture.replace('.', '')}", "-Xptxas=-v")
    assert "warning" not in said
    disassembled = subprocess.run([disassembler, str(cubin)], capture_output=True, text=True, check=True).stdout
    return Compiled(source, architecture, list(parsed(said, disassembled)))


def parsed(ptxas: str, disassembled: str) -> Iterator[Kernel]:
    code = dict(re.findall(r"^\.text\.(\w+):\n(.*?)(?=^\.text\.|^\s*\.section|\Z)", disassembled, re.M | re.S))
    for text in ptxas.split("Compiling entry function ")[1:]:
        symbol = re.match(r"'(\w+)'", text)
        local = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", text)
        registers = re.search(r"Used (\d+) registers", text)
        assert symbol is not None
        assert local is not None
        assert registers is not None
        name = subprocess.run(["c++filt", symbol[1]], capture_output=True, text=True, check=True).stdout
        template = re.search(r"internimage::(\w+)<(\w+)(?:, (\d), (\w+))?>", name)
        assert template, name
        instructions = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", code[symbol[1]])
        stack, stores, loads = map(int, local.groups())
        yield Kernel(
            template[1], template[2], int(template[3] or 0), template[4] in LAID_OUT.values(), int(registers[1]),
            (stack, stores, loads), instructions,
        )  # fmt: skip


def test_every_kernel_is_there(compiled: Compiled) -> None:
    found = {(kernel.name, kernel.dtype, kernel.lanes, kernel.laid_out) for kernel in compiled}
    expected = {(IN_ORDER[compiled.source], dtype, 0, False) for dtype in SIZES}
    for name in (f"{compiled.source}_forward", f"{compiled.source}_backward"):
        for dtype, size in SIZES.items():
            expected |= {(name, dtype, lanes, False) for lanes in (1, 2, 4, 8) if lanes * size <= 16}
            expected.add((name, dtype, 16 // size, True))
    assert found == expected
    assert all(len(kernel.instructions) > 100 for kernel in compiled)


def test_no_kernel_spills_calls_or_has_a_stack(compiled: Compiled) -> None:
    for kernel in compiled:
        assert kernel.local_bytes == (0, 0, 0), kernel.name
        assert not kernel.count(r"(RET|JCAL|LDL|STL)\b.*"), kernel
        # For 8.x ptxas ends loops of some kilobytes by "CALL.REL.NOINC behind it; BRA back": a jump.
        following = zip(kernel.instructions, kernel.instructions[1:], strict=False)
        calls = [pair for pair in following if pair[0].startswith("CALL")]
        assert set(calls) <= {("CALL.REL.NOINC", "BRA")}, kernel


def test_the_usual_forward_paths_leave_registers_for_four_blocks(compiled: Compiled) -> None:
    chosen = [kernel for kernel in compiled if kernel.name.endswith("_forward") and kernel.laid_out]
    assert len(chosen) == 4
    assert all(kernel.registers <= 64 for kernel in chosen if kernel.dtype != "double")


def test_channels_move_as_whole_words(compiled: Compiled) -> None:
    together = {"dcnv3": 3, "ms_deform_attn": 2}[compiled.source]  # taps or points read in one round of a loop
    for kernel in compiled:
        if kernel.lanes:
            width = f"\\.{kernel.load_bits}" if kernel.load_bits > 32 else "\\.U16" if kernel.load_bits == 16 else ""
            samples = together if kernel.laid_out else 1  # whose four corners each are loads
            assert kernel.count(rf"LDG\.E{width}(\.CONSTANT|\.SYS)*") >= 4 * samples, kernel
            if kernel.name.endswith("_forward"):
                assert kernel.count(rf"STG\.E{width}(\.SYS)?") == 1, kernel


def test_gradients_are_added_as_vectors_where_the_architecture_can(compiled: Compiled) -> None:
    vectors = float(compiled.architecture) >= 9
    for kernel in compiled:
        widest = 1 if kernel.dtype == "double" or not vectors else min(kernel.lanes, 4)
        added = {1: r"REDG?\.E\.ADD\.F(32|64)\..*", 2: r"REDG\.E\.ADD\.F32x2\..*", 4: r"REDG\.E\.ADD\.F32x4\..*"}
        for width, pattern in added.items():
            wanted = kernel.name.endswith("_backward") and width == widest
            assert bool(kernel.count(pattern)) == wanted, (kernel.name, kernel.dtype, kernel.lanes, pattern)
        assert not kernel.count(r"ATOM.*"), kernel.name  # would wait for the former value


@pytest.mark.parametrize("source", LAID_OUT)
def test_the_portable_code_is_plain(toolkit: toolchain.CudaToolkit, tmp_path: Path, source: str) -> None:
    """What is shipped for devices to come: no instruction of one architecture alone, no call."""
    ptx = tmp_path / "kernels.ptx"
    newest = [name for name in toolchain.CUDA_ARCHITECTURES if name in toolkit.architectures()][-1]
    nvcc(toolkit, source, ptx, "-ptx", f"-arch=compute_{newest.replace('.', '')}")
    instructions = set(re.findall(r"^\s+(?:@!?%p\d+ )?([a-z][\w.]*)", ptx.read_text(), re.M))
    assert "ld.global.nc.v4.u32" in instructions or "ld.global.nc.v4.b32" in instructions
    assert not [name for name in instructions if re.match(r"call|mma|wmma|wgmma|tcgen|cp\.|mbarrier|red\.async", name)]


@pytest.mark.parametrize("architecture", [toolchain.CUDA_ARCHITECTURES[0], "9.0"])
@pytest.mark.parametrize(("source", "kernels"), [("roi_align", 12), ("nms", 3)])
def test_the_plain_kernels_do_not_spill(
    toolkit: toolchain.CudaToolkit, tmp_path: Path, source: str, kernels: int, architecture: str
) -> None:
    if architecture not in toolkit.architectures():
        pytest.skip(f"the nvcc of CUDA {toolkit.version} does not know the architecture {architecture}")
    flags = "-cubin", f"-arch=sm_{architecture.replace('.', '')}", "-Xptxas=-v"
    said = nvcc(toolkit, source, tmp_path / "kernels.cubin", *flags)
    assert "warning" not in said
    assert said.count("Compiling entry function") == kernels
    assert said.count("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads") == kernels, said
