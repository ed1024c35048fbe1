"""`internimage train pretraining`: from images, with texts and categories or without, to the weights of an encoder."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import DataLoader

from internimage import InternImage, create_model, load_checkpoint
from internimage.checkpoint import describe
from internimage.heads import ClipHead
from internimage.layers import linear
from internimage.tasks.pretraining.data import PretrainingData, no_data, open_pretraining_data
from internimage.tasks.pretraining.decoder import DenseDecoder
from internimage.tasks.pretraining.loading import PretrainingSet, Wanted, collate
from internimage.tasks.pretraining.model import PretrainingModel
from internimage.tasks.pretraining.momentum import follow_encoder, momentum_at
from internimage.tasks.pretraining.recipes import RECIPES, Kind, PretrainingRecipe
from internimage.tasks.pretraining.targets import (
    Boltzmann,
    CategoryTarget,
    DenseTarget,
    Gaussian,
    Likelihood,
    TextTarget,
    dense_channels,
)
from internimage.tasks.pretraining.term_means import TermMeans
from internimage.tasks.pretraining.text_encoder import TextEncoder
from internimage.tasks.pretraining.tokens import TextTokens, read_tokens, train_tokenizer
from internimage.tasks.training.batch_norm import synchronise_batch_norms
from internimage.tasks.training.checkpoints import save_weights
from internimage.tasks.training.command import add_train_arguments, run_loop, run_training, start_run
from internimage.tasks.training.distributed import Processes, inner_model
from internimage.tasks.training.feed import Batch, to_device
from internimage.tasks.training.loop import Figures
from internimage.tasks.training.optimizer import build_adamw
from internimage.tasks.training.order import Order
from internimage.tasks.training.run_directory import RunDirectory, weights_file
from internimage.tasks.training.samples import worker_init
from internimage.tasks.training.weighted_order import weighted_order
from internimage.variants import VARIANTS
from internimage.weight_files import written_whole

EXAMPLES = """examples:
  internimage train pretraining --recipe quick --data shards --output runs/pretraining
  internimage train classification --recipe quick --data photos --init runs/pretraining --output runs/photos
  internimage train pretraining --recipe quick_self_supervised --data shards --output runs/images-alone
  internimage train pretraining --recipe internimage_h_joint_224 --print-recipe
  torchrun --nnodes 64 --nproc-per-node 8 --rdzv-endpoint HOST:29500 -m internimage train pretraining \\
      --recipe internimage_h_joint_224 --data web --output /shared/runs/h

shards/ holds train-*.tar of samples KEY.jpg with KEY.txt, KEY.cls, KEY.emb as there are, and val-*.tar likewise if
wanted, as `internimage shard` writes them; or sources.json with several sources and their weights. The same command
again goes on where it was interrupted.
"""

TOKENIZER = "tokenizer.json"

_TEXTS = 200_000  # that a tokenizer is trained on
_UNDECAYED = ("mask_token", "position", "embedding")  # learned vectors that stand as matrices


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_train_arguments(parser, PretrainingRecipe, list(RECIPES))


def run(arguments: argparse.Namespace) -> int:
    """Train, and show the last figures at the end."""
    return run_training(arguments, PretrainingRecipe, RECIPES, train)


def train(recipe: PretrainingRecipe, data: Path, output: Path, processes: Processes) -> None:
    """Pre-train an encoder by a recipe; the run's folder then holds its newest weights, log and curves.

    Args:
        recipe: what to do.
        data: a folder that `open_pretraining_data` knows, with the split "train" and perhaps "val".
        output: folder of the run; one that was interrupted goes on.
        processes: who takes part.

    Raises:
        ValueError: data, recipe and folder don't go together; the message says how.
        TrainingError, KeyboardInterrupt: see `Loop.train`.
    """
    training_data = open_pretraining_data(data, "train")
    if training_data is None:
        raise no_data(data, "train")
    parts = recipe.accumulation * processes.world_size
    order = weighted_order(
        training_data.sizes,
        training_data.weights,
        recipe.batch_size,
        parts=parts,
        seed=recipe.seed,
        streams=recipe.streams,
        shuffle_buffer=recipe.shuffle_buffer,
    )
    if recipe.batch_size // parts % recipe.mixed_images:
        raise ValueError(
            f"{recipe.mixed_images} images are mixed into one, but a part of the batch has "
            f"{recipe.batch_size // parts}; give a --batch-size that is a multiple of {parts * recipe.mixed_images}"
        )
    directory = start_run(output, recipe, processes)
    tokens = None
    if recipe.text_weight and not recipe.stored_texts:
        tokens = _tokens(recipe, training_data, output, processes)
    categories = training_data.categories() if recipe.category_weight else ()
    wanted = Wanted(
        augmentation=recipe.augmentation(),
        dense=recipe.dense_weight > 0,
        other_view=recipe.target_view == "other",
        cells=recipe.dense_cells,
        categories={name: label for label, name in enumerate(categories)} if categories else None,
        tokens=tokens,
        embedding_width=recipe.text_channels if recipe.text_weight and recipe.stored_texts else None,
    )
    model = build_model(recipe, len(categories), 0 if tokens is None else tokens.vocabulary, processes)
    validation_data = open_pretraining_data(data, "val")
    task = PretrainingTask(
        recipe,
        model.to(processes.device),
        None if validation_data is None else PretrainingSet(validation_data, wanted),
        recipe.total_steps(order.steps_per_epoch),
        directory,
        processes,
    )
    run_loop(
        task,
        model,
        partial(build_optimizer, recipe),
        PretrainingSet(training_data, wanted),
        order,
        collate=task.collate,
        recipe=recipe,
        run=directory,
        processes=processes,
        title=f"{recipe.model} on {data.name}",
        curves={"category_accuracy": "accuracy of categories"} if categories else {},
        follower=task,
    )


class PretrainingTask:
    """What pre-training brings to the loop, and does after each step."""

    best = None

    def __init__(
        self,
        recipe: PretrainingRecipe,
        model: PretrainingModel,
        validation_data: PretrainingSet | None,
        total_steps: int,
        directory: RunDirectory,
        processes: Processes,
    ) -> None:
        self.metadata = describe(model.encoder)
        self.collate = partial(collate, images=recipe.mixed_images)
        self._recipe, self._data, self._directory, self._processes = recipe, validation_data, directory, processes
        self._total_steps = total_steps
        self._terms = TermMeans(processes)
        self._report: Figures = {}

    def loss(self, model: nn.Module, batch: Batch, rng: np.random.Generator) -> Tensor:
        """The weighted sum of the targets' losses; the model draws nothing but stochastic depth."""
        result = model(batch)
        self._terms.add(result)
        loss: Tensor = result["loss"]
        return loss

    def after_step(self, model: nn.Module, step: int) -> None:
        """Let the momentum copy follow the encoder."""
        if self._recipe.dense_weight:
            momentum = momentum_at(step, self._total_steps, self._recipe.momentum, self._recipe.momentum_end)
            follow_encoder(model.get_submodule("dense.momentum"), model.get_submodule("encoder"), momentum)

    def figures(self) -> Figures:
        """Means of the terms, and the collapse indicators of the last part of a step."""
        return self._terms.take()

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> Figures:
        """The terms and indicators of the validation data, of whole parts as they are in training."""
        if self._data is None:
            return {}
        processes, images = self._processes, self._recipe.mixed_images
        part = self._recipe.batch_size // (self._recipe.accumulation * processes.world_size)
        part = min(part, len(self._data) // (processes.world_size * images) * images)
        if not part:  # not even a mixture for each process
            return {}
        whole = part * processes.world_size
        order = Order([len(self._data)], whole, parts=processes.world_size)
        steps = max(1, min(len(self._data), self._recipe.eval_images) // whole)
        terms = TermMeans(processes)
        for batch in DataLoader(
            self._data,
            batch_sampler=order.batches(processes.rank, processes.world_size, range(steps)),
            collate_fn=self.collate,
            num_workers=self._recipe.workers,
            worker_init_fn=worker_init,
        ):
            terms.add(model(to_device(batch, processes.device)))
        self._report = terms.take()
        return self._report

    def export(self, model: nn.Module, name: str) -> None:
        """Write the encoder's weights, as every task loads them, and the figures."""
        encoder = inner_model(model).get_submodule("encoder")
        save_weights(encoder, self._directory.path / name, self.metadata, self._processes)
        if self._processes.is_main:
            lines = [f"{figure:<24}{number:10.4f}" for figure, number in self._report.items()]
            text = "\n".join(lines or ["no validation data"]) + "\n"
            (self._directory.path / "report.txt").write_text(text)


def build_model(recipe: PretrainingRecipe, categories: int, vocabulary: int, processes: Processes) -> PretrainingModel:
    """The recipe's model, initialised by its seed and, the encoder, from the weights that it names.

    Args:
        recipe: with the targets.
        categories: how many, where they are a target.
        vocabulary: of the tokenizer, where texts are a target and not stored as representations.
        processes: who share each batch.
    """
    torch.manual_seed(recipe.seed)
    rate = VARIANTS[recipe.model].drop_path_rate if recipe.drop_path_rate is None else recipe.drop_path_rate
    encoder = create_model(recipe.model, num_classes=categories, drop_path_rate=rate)
    if recipe.init is not None:
        source = weights_file(Path(recipe.init)) if Path(recipe.init).exists() else recipe.init
        load_checkpoint(encoder, source, classifier="fresh" if categories else "same")
    encoder.set_grad_checkpointing(recipe.grad_checkpointing)
    if recipe.sync_batch_norm:
        synchronise_batch_norms(encoder)
    return PretrainingModel(
        encoder,
        recipe.mixed_images,
        processes,
        recipe.weights,
        dense=_dense_target(recipe, encoder) if recipe.dense_weight else None,
        text=_text_target(recipe, encoder, vocabulary) if recipe.text_weight else None,
        category=CategoryTarget(recipe.label_smoothing) if recipe.category_weight else None,
    )


def _dense_target(recipe: PretrainingRecipe, encoder: InternImage) -> DenseTarget:
    whole = isinstance(encoder.head, ClipHead)
    copy = create_model(recipe.model, num_classes=0) if whole else create_model(recipe.model, head=None)
    follow_encoder(copy, encoder, 0.0)
    channels = dense_channels(encoder.head, encoder.feature_info[-1]["num_chs"])
    decoder = DenseDecoder(channels, recipe.decoder_width, recipe.decoder_layers)
    return DenseTarget(copy, decoder, _likelihood(recipe, recipe.dense_likelihood, symmetric=False))


def _text_target(recipe: PretrainingRecipe, encoder: InternImage, vocabulary: int) -> TextTarget:
    hidden, channels = encoder.head_hidden_size, recipe.text_channels
    texts = None
    if not recipe.stored_texts:
        texts = TextEncoder(vocabulary, recipe.text_length, recipe.text_width, recipe.text_layers, channels)
    # The attention pooling of H and G ends in the text space itself.
    projection = nn.Identity() if hidden == channels else linear(hidden, channels)
    return TextTarget(projection, texts, _likelihood(recipe, recipe.text_likelihood, symmetric=True))


def _likelihood(recipe: PretrainingRecipe, kind: Kind, *, symmetric: bool) -> Likelihood:
    if kind == "boltzmann":
        return Boltzmann(symmetric=symmetric)
    return Gaussian(recipe.variance_weight, recipe.covariance_weight)


def build_optimizer(recipe: PretrainingRecipe, model: nn.Module) -> AdamW:
    """AdamW over everything but the momentum copy, with one learning rate."""
    peak = recipe.learning_rate * recipe.lr_factor
    return build_adamw(model, peak, recipe.weight_decay, beta2=recipe.beta2, undecayed=_UNDECAYED)


def _tokens(recipe: PretrainingRecipe, data: PretrainingData, output: Path, processes: Processes) -> TextTokens:
    """The recipe's tokenizer, or one that is trained on the data once; the run's folder keeps it."""
    path = output / TOKENIZER
    if processes.is_main and not path.exists():
        if recipe.tokenizer is not None:
            text = Path(recipe.tokenizer).read_text("utf-8")
        else:
            texts = data.some_texts(_TEXTS)
            if not texts:
                raise ValueError("no sample has a text (a member txt); learn without: --text-weight 0")
            text = train_tokenizer(texts, recipe.vocabulary)
        with written_whole(path) as temporary:
            temporary.write_text(text, "utf-8")
    processes.wait()
    return read_tokens(path, recipe.text_length)
