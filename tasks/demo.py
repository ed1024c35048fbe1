"""`internimage demo`: all the way from data to a deployed model, on handwritten digits, in a few minutes.

The digits are the 1797 that scikit-learn ships: real handwriting, 8x8 pixels (UCI, "Optical Recognition of Handwritten
Digits"). A fifth of them is held out.
"""

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

import internimage
from internimage import InternImage, deploy
from internimage.ops.backend import get_backend
from internimage.ops.build import native_available
from internimage.tasks import charts
from internimage.tasks.devices import add_device_argument, choose_device
from internimage.tasks.images import Image
from internimage.tasks.run_package import classify
from internimage.tasks.sampling import SamplingPoints, trace_sampling

EXAMPLES = """examples:
  internimage demo
  internimage demo --output results --epochs 10
"""

SIZE = 64  # pixels; the four stages then see 16x16, 8x8, 4x4 and 2x2 places
BATCH_SIZE = 64
TEST_BATCH_SIZE = 120
LEARNING_RATE = 4e-3
ROUNDS = 7  # of the speed measurement
_NAMES = [str(digit) for digit in range(10)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, default=Path("internimage-demo"), metavar="DIR", help="(internimage-demo)"
    )
    parser.add_argument("--epochs", type=int, default=30, help="passes over the training images (30)")
    parser.add_argument("--seed", type=int, default=0, help="of initialisation and augmentation (0)")
    add_device_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train, draw, compile, package, compare; 1 where the ways of running the model disagree on a label."""
    if arguments.epochs < 1:
        raise ValueError(f"--epochs must be at least 1, got {arguments.epochs}")
    charts.require_matplotlib()
    device = choose_device(arguments.device)
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    digits = load_digits(device)

    torch.manual_seed(arguments.seed)
    model = make_model().to(device)
    backend = "native" if native_available(device.type, get_backend()) else "PyTorch"
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"InternImage with {parameters:,} parameters on {device}, {backend} operators")
    with _timed("training") as training:
        history = train(model, digits, arguments.epochs)
    draw(model, digits, history, output)

    images = digits.test_images
    with _timed("torch.compile, one graph") as compiling:
        compiled = compile_model(model, images[:TEST_BATCH_SIZE])
    with _timed("AOTInductor package") as packaging:
        program = deploy.export(model, images[:2], batch=(1, len(images)))
        package = deploy.package(program, output / "model.pt2")
    results = compare(model, compiled, package, images)

    _print_table(results, digits.test_labels.tolist())
    labels = digits.test_labels.tolist()
    disagreements = {name: _differing(results["eager"].labels, result.labels) for name, result in results.items()}
    metrics = {
        "accuracy": {name: _accuracy(result.labels, labels) for name, result in results.items()},
        "images_per_second": {name: result.images_per_second for name, result in results.items()},
        "differs_from_eager_at": disagreements,
        "errors_at": _differing(results["eager"].labels, labels),
        "seconds": {"training": training[0], "compile": compiling[0], "package": packaging[0]},
        "history": asdict(history),
        "settings": {"epochs": arguments.epochs, "seed": arguments.seed, "device": str(device), "operators": backend},
        "parameters": parameters,
        "versions": {
            "internimage": internimage.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    print(f"\nwritten to {output}: " + ", ".join(sorted(path.name for path in output.iterdir())))
    for name, indices in disagreements.items():
        if indices:
            print(f"internimage: error: {name} and eager disagree on the images {indices}", file=sys.stderr)
    return 1 if any(disagreements.values()) else 0


@dataclass(frozen=True)
class Digits:
    """Images [N, 1, SIZE, SIZE], normalised by mean and deviation of the training part, and labels [N]."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    background: float  # the value of an empty pixel
    test_pictures: NDArray[np.uint8]  # [N, SIZE, SIZE, 3], dark ink on white, to look at


def load_digits(device: torch.device) -> Digits:
    """Split the digits 80/20, the classes evenly and always alike; enlarge them, with a margin, to SIZE pixels.

    Raises:
        ImportError: scikit-learn is missing; the message has the command that installs it.
    """
    try:
        from sklearn import datasets
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError(
            'the digits come with scikit-learn, which is not installed; run: pip install "internimage[demo]"'
        ) from error
    raw = datasets.load_digits()
    framed = F.pad(torch.tensor(raw.images, dtype=torch.float32)[:, None] / 16, (1, 1, 1, 1))
    ink = F.interpolate(framed, (SIZE, SIZE), mode="bicubic").clamp(0, 1)
    labels = torch.tensor(raw.target)
    train, test = (
        torch.as_tensor(part)
        for part in train_test_split(np.arange(len(labels)), test_size=0.2, stratify=raw.target, random_state=0)
    )
    std, mean = torch.std_mean(ink[train])
    images = ((ink - mean) / std).to(device)
    pictures = (255 * (1 - ink[test])).round().byte().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    labels = labels.to(device)
    background = float(-mean / std)
    return Digits(images[train], labels[train], images[test], labels[test], background, pictures)


def make_model() -> InternImage:
    """An InternImage with one layer a stage, for grey pictures of ten classes."""
    return InternImage(
        channels=16, depths=(1, 1, 1, 1), groups=(1, 2, 4, 8), drop_path_rate=0.05, num_classes=10, in_chans=1
    )


@dataclass(frozen=True)
class History:
    """After each epoch: mean training loss, and accuracy on the held-out images."""

    losses: list[float]
    accuracies: list[float]


def train(model: InternImage, digits: Digits, epochs: int) -> History:
    """AdamW, one cycle of the learning rate, label smoothing, and slightly turned, scaled and shifted digits."""
    count = len(digits.train_images)
    steps = math.ceil(count / BATCH_SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=epochs * steps, pct_start=0.2)
    history = History([], [])
    with tqdm(total=epochs * count, unit=" images", desc="training") as progress:
        for _ in range(epochs):
            model.train()
            losses = []
            for chosen in torch.split(torch.randperm(count).to(digits.train_images.device), BATCH_SIZE):
                logits = model(_augment(digits.train_images[chosen], digits.background))
                loss = F.cross_entropy(logits, digits.train_labels[chosen], label_smoothing=0.1)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
                progress.update(len(chosen))
            history.losses.append(statistics.fmean(losses))
            labels, _ = classify(model.eval(), digits.test_images, TEST_BATCH_SIZE)
            history.accuracies.append(_accuracy(labels, digits.test_labels.tolist()))
            progress.set_postfix(loss=f"{history.losses[-1]:.3f}", accuracy=f"{history.accuracies[-1]:.2%}")
    return history


def _augment(images: Tensor, background: float) -> Tensor:
    """Turn by up to 12 degrees, scale by up to 15 % and shift by up to an eighth of the side, each image by itself."""
    count = len(images)
    angle = torch.empty(count).uniform_(-math.radians(12), math.radians(12))
    scale = torch.empty(count, 1, 1).uniform_(0.85, 1.15)
    shift = torch.empty(count, 2, 1).uniform_(-0.25, 0.25)  # of half a side
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    grid = F.affine_grid(torch.cat([scale * turn, shift], 2).to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images - background, grid, align_corners=False) + background


def draw(model: InternImage, digits: Digits, history: History, output: Path) -> None:
    """Write curve.png, predictions.png (every error and some of the others) and sampling_points.png."""
    model.eval()
    with torch.no_grad():
        probabilities, predictions = model(digits.test_images).softmax(1).cpu().max(1)
    labels = digits.test_labels.cpu()
    errors = (predictions != labels).nonzero().flatten().tolist()
    right = (predictions == labels).nonzero().flatten().tolist()
    title = (
        f"InternImage on {len(labels)} held-out digits: {_accuracy(predictions.tolist(), labels.tolist()):.2%} right"
    )
    charts.save(charts.training_curve(history.losses, history.accuracies, title), output / "curve.png")

    shown = errors[:60] + right[: max(0, 60 - len(errors))]
    sheet = charts.prediction_sheet(
        list(digits.test_pictures[shown]),
        labels[shown].tolist(),
        predictions[shown].tolist(),
        probabilities[shown].tolist(),
        _NAMES,
        f"{title}; errors in red: {len(errors)}",
    )
    charts.save(sheet, output / "predictions.png")

    examples = [next((i for i in right if labels[i] == digit), 0) for digit in (3, 8)]
    rows: list[tuple[Image, list[SamplingPoints]]] = [
        (digits.test_pictures[i], trace_sampling(model, digits.test_images[i], SIZE / 2, SIZE / 2)) for i in examples
    ]
    figure = charts.sampling_figure(rows, "Where one place of each stage looks: deformable convolution, learned")
    charts.save(figure, output / "sampling_points.png")


def compile_model(model: InternImage, images: Tensor) -> Callable[[Tensor], Tensor]:
    """`torch.compile` without graph breaks, for batches of any size, already compiled on return."""
    compiled: Callable[[Tensor], Tensor] = torch.compile(model, fullgraph=True)
    images = images.clone()
    torch._dynamo.mark_dynamic(images, 0)
    with torch.no_grad():
        compiled(images)
    return compiled


@dataclass(frozen=True)
class Result:
    """What one way of running the model gives."""

    labels: list[int]
    images_per_second: float


def compare(
    model: InternImage, compiled: Callable[[Tensor], Tensor], package: Path, images: Tensor
) -> dict[str, Result]:
    """Run the model eagerly, compiled, and as a package in a new process; in turn, so that all meet the same load."""
    with _package_process(package, images) as run_package:
        ways: dict[str, Callable[[], tuple[list[int], float]]] = {
            "eager": lambda: classify(model, images, TEST_BATCH_SIZE),
            "compiled": lambda: classify(compiled, images, TEST_BATCH_SIZE),
            "packaged": run_package,
        }
        labels = {name: way()[0] for name, way in ways.items()}  # also the warm-up
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                seconds[name].append(way()[1])
    return {name: Result(labels[name], len(images) / statistics.median(seconds[name])) for name in ways}


@contextmanager
def _package_process(package: Path, images: Tensor) -> Iterator[Callable[[], tuple[list[int], float]]]:
    """Start a process that holds the package, and give a function that has it classify the images once."""
    with TemporaryDirectory() as folder:
        data = Path(folder) / "images.npz"
        np.savez(data, images=images.cpu().numpy())
        # -P: in a checkout, its folder internimage/ would stand before the installed package.
        command = [sys.executable, "-P", "-m", "internimage.tasks.run_package"]
        command += [str(package), str(data), str(images.device), str(TEST_BATCH_SIZE)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

        def run_once() -> tuple[list[int], float]:
            if process.stdin is None or process.stdout is None:
                raise RuntimeError("the process was started without pipes")
            process.stdin.write("run\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise ValueError(f"{package}: the process that runs the package ended early, see its message above")
            answer = json.loads(line)
            return answer["labels"], answer["seconds"]

        with process:  # leaving closes its input, which ends it
            yield run_once


@contextmanager
def _timed(name: str) -> Iterator[list[float]]:
    """Print and give (as the only element, afterwards) the seconds that the block took."""
    seconds: list[float] = []
    start = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - start)
    print(f"{name}: {seconds[0]:.1f} s", flush=True)


def _print_table(results: dict[str, Result], labels: list[int]) -> None:
    print(f"\n{'':10}  {'accuracy':>8}  {'images/s':>8}")
    for name, result in results.items():
        print(f"{name:10}  {_accuracy(result.labels, labels):8.2%}  {result.images_per_second:8.0f}")


def _accuracy(predictions: list[int], labels: list[int]) -> float:
    return statistics.fmean(float(a == b) for a, b in zip(predictions, labels, strict=True))


def _differing(first: list[int], second: list[int]) -> list[int]:
    return [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
