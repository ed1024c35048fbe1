"""Post-training quantisation: linear layers and convolutions in int8, the operators in float."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from internimage.deploy.programs import Range, export

Inputs = tuple[Tensor, ...]


def quantise(
    model: nn.Module,
    batches: Iterable[Inputs],
    *,
    batch: Range | None = (1, 64),
    height: Range | None = None,
    width: Range | None = None,
) -> nn.Module:
    """A model whose linear layers and convolutions multiply int8, for x86 processors; the given one stays as it is.

    Weights have a scale for each channel, activations one for each tensor, found by running the batches. It is a graph
    for these sizes: export it with the same ranges.

    Args:
        model: float32, in evaluation mode, not prepared for inference; see `export`.
        batches: inputs of the model that are like those to come, a hundred images or so.
        batch, height, width: see `export`.

    Raises:
        ValueError: no batch, or what can't be exported.
        ImportError: torchao is missing.
    """
    if importlib.util.find_spec("torchao") is None:
        raise ImportError('quantisation needs torchao; run: pip install "internimage[int8]"')
    batches = list(batches)
    if not batches:
        raise ValueError("quantise: expected batches to find the scales with, got none")
    program = export(model, batches[0], batch=batch, height=height, width=width)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torchao, about itself
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
        observed = prepare_pt2e(program.module(), quantizer)
        for inputs in batches:
            observed(*inputs)
        quantised: nn.Module = convert_pt2e(observed)
    for module in quantised.modules():  # graphs refuse eval(); this one was exported in evaluation mode
        module.training = False
    return quantised
