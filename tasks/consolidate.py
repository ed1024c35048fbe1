"""`internimage consolidate`: one safetensors file out of a checkpoint that several processes wrote."""

import argparse
from pathlib import Path

from internimage.checkpoint import save_state_dict
from internimage.tasks.training.checkpoints import read_state, read_weights

EXAMPLES = """examples:
  internimage consolidate runs/h/checkpoints/step-00012500 h.safetensors
  internimage consolidate runs/h/checkpoints/step-00012500 h.safetensors --average
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="a folder step-... of a run's checkpoints")
    parser.add_argument("output", type=Path, help="the file to write")
    parser.add_argument("--average", action="store_true", help="the moving average of the weights")


def run(arguments: argparse.Namespace) -> int:
    """Write the weights, whatever number of processes trained them."""
    if arguments.output.suffix != ".safetensors":
        raise ValueError(f"the output must be a .safetensors file, got {arguments.output}")
    state = read_state(arguments.checkpoint)
    weights = read_weights(arguments.checkpoint, average=arguments.average)
    save_state_dict(weights, arguments.output, state["metadata"])
    print(f"{arguments.output}: {sum(tensor.numel() for tensor in weights.values()):,} numbers of step {state['step']}")
    return 0
