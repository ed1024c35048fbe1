"""The training loop: steps, averages, checkpoints, evaluation, log; for any task and any number of processes."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW
from tqdm import tqdm

from internimage.backbone import Block
from internimage.tasks.devices import peak_memory_mib
from internimage.tasks.training.averaging import Average
from internimage.tasks.training.checkpoints import Checkpoints
from internimage.tasks.training.distributed import (
    DTYPES,
    Processes,
    inner_model,
    parallelise,
    reduce_gradients,
)
from internimage.tasks.training.feed import Batch, Feed, TrainingError, to_device
from internimage.tasks.training.optimizer import set_learning_rate
from internimage.tasks.training.recipe import Recipe
from internimage.tasks.training.run_directory import BEST, CHECKPOINTS, RunDirectory
from internimage.tasks.training.schedule import LearningRate

Figures = dict[str, float]


class Task(Protocol):
    """What a task brings to the loop."""

    metadata: dict[str, str]
    """What stands beside the weights in a safetensors file."""

    @property
    def best(self) -> str | None:
        """The figure of `evaluate` that is largest for the best weights; None: the newest count as the best."""

    def loss(self, model: nn.Module, batch: Batch, rng: np.random.Generator) -> Tensor:
        """The loss of a part of a step, a mean over its images. `rng` is the only source of randomness."""

    def evaluate(self, model: nn.Module) -> Figures:
        """Figures over the validation data of all processes; every process calls it and gets the same."""

    def export(self, model: nn.Module, name: str) -> None:
        """Write the weights as `name` into the run's folder; every process calls it, as sharded weights need all."""


class Follower(Protocol):
    """What a task may do beside the loop."""

    def after_step(self, model: nn.Module, step: int) -> None:
        """Called when a step has changed the weights; steps count from 0. `model` has the names of the task's own."""

    def figures(self) -> Figures:
        """For the log, over the steps since the last call; every process calls it."""


@dataclass
class Progress:
    """What the loop knows besides tensors, and a checkpoint holds."""

    step: int = 0
    evaluated_step: int = 0
    bad_steps: int = 0
    best: float = -math.inf
    corrupt: list[str] = field(default_factory=list)


class Loop:
    """Trains a model to the end of its recipe, from the newest checkpoint of the run on.

    All randomness of a step follows from the seed, the step and the process, so nothing of it has to be stored, and a
    run that was interrupted anywhere ends as if it hadn't been.

    Args:
        task: loss, evaluation, export.
        model: on the processes' device, not yet wrapped.
        make_optimizer: model, after wrapping -> optimiser.
        schedule: of the learning rate.
        make_feed: steps -> what this process trains on.
        steps_per_epoch: of the feed.
        images: of the training data, for the share of corrupt ones.
        recipe: everything else.
        run: where to.
        processes: with whom.
        follower: what else to do after each step.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        make_optimizer: Callable[[nn.Module], AdamW],
        schedule: LearningRate,
        make_feed: Callable[[range], Feed],
        *,
        steps_per_epoch: int,
        images: int,
        recipe: Recipe,
        run: RunDirectory,
        processes: Processes,
        follower: Follower | None = None,
    ) -> None:
        self.task, self.recipe, self.run, self.processes = task, recipe, run, processes
        self.follower = follower
        self.steps_per_epoch, self.images = steps_per_epoch, images
        self.total_steps = recipe.total_steps(steps_per_epoch)
        self.schedule, self._make_feed = schedule, make_feed
        if recipe.compile == "blocks" or (recipe.compile == "auto" and processes.device.type == "cuda"):
            compile_blocks(model)
        self.model = parallelise(model, processes, recipe.strategy, recipe.precision)
        self.inner = inner_model(self.model)
        self.optimizer = make_optimizer(self.inner)
        self.average: Average | None = None
        if recipe.ema_decay is not None:
            self.average = Average(self.inner, recipe.ema_decay, recipe.ema_warmup)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=recipe.precision == "float16")
        self.checkpoints = Checkpoints(run.path / CHECKPOINTS, processes, recipe.keep)
        self.progress = Progress()
        self._in_a_row = 0
        self._meter = _Meter()

    def train(self) -> Progress:
        """Take all steps that are left; returns how far it came.

        Raises:
            KeyboardInterrupt: after Ctrl-C or SIGTERM, when a checkpoint has been written.
            TrainingError: the loss or gradients stayed not finite, or too many images are corrupt.
            OSError: the last checkpoint could not be written.
        """
        self._resume()
        self._evaluate_if_due()  # after a step that a signal ended
        first = self.progress.step
        if first == self.total_steps:
            return self.progress
        feed = self._make_feed(range(first, self.total_steps))
        quiet = None if self.processes.is_main else True  # None: only on a terminal
        bar = tqdm(total=self.total_steps, initial=first, unit="step", disable=quiet, dynamic_ncols=True)
        with bar, _stop_signals() as received:
            try:
                while self.progress.step < self.total_steps:
                    stop = self._take_step(feed, received)
                    bar.update()
                    self._log(bar)
                    if stop:
                        self._save()
                        raise KeyboardInterrupt
                    self._evaluate_if_due()
                    self._save_if_due()
            finally:
                feed.stop()
        self._save(required=True)
        return self.progress

    def _resume(self) -> None:
        state = self.checkpoints.load_newest(self.model, self.optimizer, self.average)
        if state is not None:
            self.progress = Progress(**{name: state[name] for name in vars(self.progress)})
            self.scaler.load_state_dict(state["scaler"])
            self._say(f"resuming at step {self.progress.step} of {self.total_steps}")
        self.run.rewind(self.progress.step)

    def _take_step(self, feed: Feed, signals: list[int]) -> bool:
        """Take one step; returns whether any process has received a signal to stop."""
        recipe = self.recipe
        with self._meter.waiting():
            parts = feed.next_step()
        learning_rate = set_learning_rate(self.optimizer, self.schedule, self.progress.step)
        buffers = [buffer.clone() for buffer in self.inner.buffers()]
        own_loss = self._gradients(parts)
        self.scaler.unscale_(self.optimizer)
        norm = _whole(nn.utils.clip_grad_norm_(self.inner.parameters(), recipe.clip_norm or math.inf))
        corrupt = any(part.get("corrupt") for part in parts)
        loss, stop, corrupt_anywhere = self.processes.sum(
            torch.tensor([own_loss / self.processes.world_size, bool(signals), corrupt], dtype=torch.float64)
        ).tolist()
        # Loss scaling overflows from time to time, and then leaves the step out and lowers the scale by itself.
        overflow = self.scaler.is_enabled() and self.scaler.get_scale() >= 1
        if math.isfinite(loss) and (math.isfinite(norm) or overflow):
            self.scaler.step(self.optimizer)
            if self.average is not None:
                self.average.update(self.inner, self.progress.step)
            if self.follower is not None:
                self.follower.after_step(self.inner, self.progress.step)
            self._in_a_row = 0
            self._meter.add(loss, norm, learning_rate, recipe.batch_size)
        else:
            self._leave_out(loss, norm, buffers)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.progress.step += 1
        if corrupt_anywhere:
            self._note_corrupt([name for part in parts for name in part["corrupt"]])
        return bool(stop)

    def _gradients(self, parts: list[Batch]) -> float:
        """Add the gradients of a step up, and return its mean loss in this process."""
        total = 0.0
        self.model.train()
        for number, part in enumerate(parts):
            reduce_gradients(self.model, number == len(parts) - 1)
            rng = np.random.default_rng((self.recipe.seed, self.progress.step, number, self.processes.rank))
            torch.manual_seed(int(rng.integers(2**63)))
            with self._autocast():
                loss = self.task.loss(self.model, to_device(part, self.processes.device), rng) / len(parts)
            torch.autograd.backward(self.scaler.scale(loss))
            total += loss.item()
        return total

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.recipe.precision == "float32":
            return nullcontext()
        return torch.autocast(self.processes.device.type, DTYPES[self.recipe.precision])

    @torch.no_grad()
    def _leave_out(self, loss: float, norm: float, buffers: list[Tensor]) -> None:
        """Take no step: weights, averages and batch statistics stay as they were before it."""
        for buffer, before in zip(self.inner.buffers(), buffers, strict=True):
            buffer.copy_(before)
        self.progress.bad_steps += 1
        self._in_a_row += 1
        step = self.progress.step
        self._say(f"step {step} left out: its loss is {loss}, the norm of its gradients {norm}")
        if self._in_a_row >= self.recipe.max_bad_steps:
            raise TrainingError(
                f"the loss or the gradients were not finite in {self._in_a_row} steps in a row, the last of them step "
                f"{step}; the newest checkpoint is from before them ({self.checkpoints.folder}). Lower --learning-rate "
                "or --clip-norm, or use --precision bfloat16 or float32"
            )

    def _log(self, bar: tqdm[Any]) -> None:
        step, epoch = self.progress.step, self._epoch
        if step % self.recipe.log_steps and step != self.total_steps:
            return
        row = self._meter.take(self.processes.device)
        if self.follower is not None:
            row |= self.follower.figures()
        self.run.log({"step": step, "epoch": epoch, **row})
        shown = {name: f"{row[name]:.4g}" for name in ("loss", "images_per_second", "data_wait", "memory_mib")}
        bar.set_postfix(epoch=f"{epoch:.1f}/{self.total_steps / self.steps_per_epoch:.4g}", **shown)

    def _evaluate_if_due(self) -> None:
        step, interval = self.progress.step, self.recipe.eval_steps or self.recipe.eval_epochs * self.steps_per_epoch
        if step != self.progress.evaluated_step and (step % interval == 0 or step == self.total_steps):
            self._evaluate()
            self.progress.evaluated_step = step

    def _save_if_due(self) -> None:
        step, interval = self.progress.step, self.recipe.save_steps or self.steps_per_epoch
        if step % interval == 0 and step < self.total_steps:
            self._save()

    @property
    def _epoch(self) -> float:
        return self.progress.step / self.steps_per_epoch

    def _evaluate(self) -> None:
        with self._meter.paused():
            self._average_buffers()
            figures = self._evaluate_weights()
            if self.average is not None:
                with self.average.in_place_of(self.inner):
                    averaged = self._evaluate_weights()
                figures |= {f"ema_{name}": figure for name, figure in averaged.items()}
        self.run.log({"step": self.progress.step, "epoch": self._epoch, **figures})
        self._say(f"epoch {self._epoch:.4g}: " + ", ".join(f"{name} {figure:.4g}" for name, figure in figures.items()))

    def _evaluate_weights(self) -> Figures:
        # In float32, but for sharded weights, which are gathered in the precision of training.
        with self._autocast() if self.recipe.strategy == "fsdp" else nullcontext():
            figures = self.task.evaluate(self.model.eval())
        if self.task.best is None or figures[self.task.best] > self.progress.best:
            self.progress.best = figures[self.task.best] if self.task.best else -math.inf
            self.task.export(self.model, BEST)
        return figures

    def _save(self, *, required: bool = False) -> None:
        state = {name: entry for name, entry in vars(self.progress).items() if name != "step"}
        with self._meter.paused():
            self._average_buffers()
            try:
                self.checkpoints.save(
                    self.progress.step,
                    self.model,
                    self.optimizer,
                    self.average,
                    {**state, "scaler": self.scaler.state_dict(), "metadata": self.task.metadata},
                )
            except OSError as error:
                if required:
                    raise
                self._say(f"no checkpoint at step {self.progress.step}, going on without: {error}")

    def _average_buffers(self) -> None:
        """Give all processes the mean of their batch statistics, so that they evaluate and save one model."""
        if self.processes.world_size == 1:
            return
        buffers = dict(self.inner.named_buffers())
        if self.average is not None:
            buffers |= {f"average.{name}": self.average.values[name] for name in buffers}
        for buffer in buffers.values():
            if buffer.is_floating_point():
                buffer.copy_(self.processes.sum(buffer) / self.processes.world_size)

    def _note_corrupt(self, names: list[str]) -> None:
        """Report pictures that could not be read, and stop when they are more than one in a hundred."""
        known = set(self.progress.corrupt)
        new = sorted({name for part in self.processes.gather(names) for name in part} - known)
        for name in new:
            self._say(f"can't be read, the next image was taken instead: {name}")
        self.progress.corrupt += new
        if len(self.progress.corrupt) > self.images / 100:
            raise TrainingError(
                f"{len(self.progress.corrupt)} of {self.images} images can't be read, more than 1 %: "
                + "; ".join(self.progress.corrupt)
            )

    def _say(self, text: str) -> None:
        if self.processes.is_main:
            tqdm.write(text, file=sys.stderr)


def compile_blocks(model: nn.Module) -> None:
    """Compile each block of the backbone in place; blocks of one stage that agree share their code."""
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    # Blocks differ in their rate of stochastic depth, each of which is a variant of the one function that is compiled.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 2 * len(blocks))
    for block in blocks:
        block.compile()


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that a first Ctrl-C or SIGTERM is put into; a second one acts as ever."""
    received: list[int] = []
    before: Mapping[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: Any) -> None:
        received.append(number)
        print("stopping after this step; a checkpoint will be written", file=sys.stderr)
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _whole(norm: Tensor) -> float:
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


class _Meter:
    """Sums over the steps since the last line of the log."""

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._sums = {"loss": 0.0, "grad_norm": 0.0}
        self._steps = self._images = 0
        self._learning_rate = 0.0
        self._waited = 0.0
        self._start = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The block is no training, so its time doesn't count."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def add(self, loss: float, norm: float, learning_rate: float, images: int) -> None:
        self._sums["loss"] += loss
        self._sums["grad_norm"] += norm if math.isfinite(norm) else 0.0
        self._steps += 1
        self._images += images
        self._learning_rate = learning_rate

    def take(self, device: torch.device) -> Figures:
        """Means since the last time, and begin anew."""
        seconds = time.perf_counter() - self._start
        figures = {
            **{name: total / max(1, self._steps) for name, total in self._sums.items()},
            "lr": self._learning_rate,
            "images_per_second": self._images / seconds,
            "data_wait": self._waited / seconds,
            "memory_mib": peak_memory_mib(device),
        }
        self._restart()
        return figures
