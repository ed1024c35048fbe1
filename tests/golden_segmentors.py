"""The small official segmentors of the reference values."""

from typing import Any

from golden_heads import Golden, golden_backbone

from internimage import load_checkpoint
from internimage.tasks.segmentation import Segmentor
from internimage.tasks.segmentation.mask2former import Mask2FormerHead
from internimage.tasks.segmentation.pixel_head import FCNHead
from internimage.tasks.segmentation.segformer import SegFormerHead
from internimage.tasks.segmentation.upernet import UperNetHead

PIXEL_CLASSIFIERS = ("upernet_t", "upernet_h", "segformer_l")
SEGMENTORS = (*PIXEL_CLASSIFIERS, "mask2former_h")


def golden_segmentor(reference: Golden) -> Segmentor:
    """The model with the official weights, in float32 and evaluation mode."""
    config = reference.meta["model_cfg"]
    auxiliary = config.get("auxiliary_head")
    model = Segmentor(
        golden_backbone(config["backbone"]),
        _head(config["decode_head"]),
        auxiliary and FCNHead(config["decode_head"]["in_channels"], auxiliary["num_classes"], channels=16, dropout=0.0),
    )
    load_checkpoint(model, {"state_dict": reference.state, "meta": {}})
    return model.eval()


def _head(config: dict[str, Any]) -> UperNetHead | SegFormerHead | Mask2FormerHead:
    inputs = (config["in_channels"], config["num_classes"])
    if config["type"] == "UPerHead":
        return UperNetHead(*inputs, channels=config["channels"], dropout=0.0)
    if config["type"] == "SegformerHead":
        return SegFormerHead(*inputs, channels=config["channels"], dropout=0.0)
    encoder, decoder = config["pixel_decoder"]["encoder"], config["transformer_decoder"]
    return Mask2FormerHead(
        *inputs,
        channels=config["feat_channels"],
        heads=decoder["transformerlayers"]["attn_cfgs"]["num_heads"],
        pixel_hidden_channels=encoder["transformerlayers"]["ffn_cfgs"]["feedforward_channels"],
        hidden_channels=decoder["transformerlayers"]["feedforward_channels"],
        queries=config["num_queries"],
        pixel_layers=encoder["num_layers"],
        layers=decoder["num_layers"],
    )
