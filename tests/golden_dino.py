"""The small official DINO detectors of the reference values."""

from typing import Any

import numpy as np
import torch
from golden_files import MODEL_ARGUMENTS
from golden_heads import Golden, golden_backbone
from torch import Tensor

from internimage import load_checkpoint
from internimage.composite import CompositeInternImage
from internimage.tasks.detection import DINO, CompositeDINO
from internimage.tasks.detection.batch import Truth
from internimage.tasks.detection.dino_denoising import DenoisingSettings, Noise

DINOS = ("dino_l", "cb_dino_h")


def golden_dino(reference: Golden, **backbone: Any) -> DINO:
    """The model with the official weights, in float32 and evaluation mode."""
    config = reference.meta["model_cfg"]
    head = config["bbox_head"]
    encoder, decoder = (head["transformer"][part] for part in ("encoder", "decoder"))
    composite = config["type"] == "CBDINO"
    neck = config["neck"][0] if composite else config["neck"]
    kind = CompositeDINO if composite else DINO
    model = kind(
        _composite(config["backbone"], **backbone) if composite else golden_backbone(config["backbone"]),
        neck["in_channels"],
        head["num_classes"],
        channels=neck["out_channels"],
        heads=8,
        hidden_channels=encoder["transformerlayers"]["feedforward_channels"],
        encoder_layers=encoder["num_layers"],
        decoder_layers=decoder["num_layers"],
        queries=head["num_query"],
        per_image=config["test_cfg"]["max_per_img"],
        denoising=DenoisingSettings(head["dn_cfg"]["group_cfg"]["num_dn_queries"]),
    )
    load_checkpoint(model, {"state_dict": reference.state, "meta": {}})
    return model.eval()


def golden_noise(reference: Golden, objects: int) -> Noise:
    """The recorded draws for so many objects."""
    chance = reference["train/rand_like.0"].view(-1, objects)
    changed = chance < 0.25
    labels = torch.zeros(chance.shape, dtype=torch.long)
    labels[changed] = reference["train/randint_like.1"].long()
    signs, sizes = (reference[f"train/{name}"].view(*chance.shape, 4) for name in ("randint_like.2", "rand_like.3"))
    return Noise(chance, labels, signs.long() * 2 - 1, sizes)


def truth_of(reference: Golden, dtype: torch.dtype) -> list[Truth]:
    return [Truth(reference[f"gt/bboxes.{i}"].to(dtype), reference[f"gt/labels.{i}"], None) for i in range(2)]


def official_mask(reference: Golden) -> Tensor:
    """True where a query may look at another one."""
    shape = tuple(reference["train/dn_attn_mask_shape"].tolist())
    bits = np.unpackbits(reference.arrays["train/dn_attn_mask"], count=int(np.prod(shape)))
    return ~torch.from_numpy(bits.astype(bool)).view(shape)


def _composite(config: dict[str, Any], **options: Any) -> CompositeInternImage:
    arguments = {key: config[key] for key in (*MODEL_ARGUMENTS, "mlp_ratio") if key in config}
    return CompositeInternImage(**arguments, **options)
