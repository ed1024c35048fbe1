"""InternImage: image -> four feature maps -> logits (CVPR 2023, arXiv 2211.05778)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from internimage.features import FeatureInfo, select_indices
from internimage.heads import ClipHead, ConvHead, MetadataHead, PoolHead
from internimage.layers import MLP, DCNv3, DropPath, LayerScale, convolve, layer_norm

HeadName = Literal["conv", "clip", "metadata"]
HEADS: dict[str, type[ConvHead | ClipHead]] = {"conv": ConvHead, "clip": ClipHead, "metadata": MetadataHead}


class Stem(nn.Module):
    """Two strided convolutions: image [N, in_chans, H, W] -> map [N, H/4, W/4, C], sizes rounded up."""

    def __init__(self, in_chans: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, channels // 2, kernel_size=3, stride=2, padding=1)
        self.norm1 = layer_norm(channels // 2)
        self.conv2 = nn.Conv2d(channels // 2, channels, kernel_size=3, stride=2, padding=1)
        self.norm2 = layer_norm(channels)

    def forward(self, image: Tensor) -> Tensor:
        x = F.gelu(self.norm1(convolve(self.conv1, image.permute(0, 2, 3, 1))))
        out: Tensor = self.norm2(convolve(self.conv2, x))
        return out


class Downsample(nn.Module):
    """Halve the resolution, rounding up, and double the width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, kernel_size=3, stride=2, padding=1, bias=False)
        self.norm = layer_norm(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(convolve(self.conv, x))
        return out


class Block(nn.Module):
    """DCNv3, then an MLP, each a residual branch: the basic layer of InternImage (figure 4).

    The variants place the norms differently. `F` is DCNv3 or the MLP, `scale` the optional layer scale:

        pre-norm (T)                 x + scale(F(norm(x)))
        post-norm (S, B, L, XL, G)   x + scale(norm(F(x)))
        residual post-norm (H)       x + res_norm(F(norm(x)))
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        *,
        mlp_ratio: float,
        drop_path_rate: float,
        layer_scale: float | None,
        offset_scale: float,
        post_norm: bool,
        res_post_norm: bool,
        dw_kernel_size: int,
        center_feature_scale: bool,
        remove_center: bool,
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.norm1 = layer_norm(channels)
        self.dcn = DCNv3(
            channels,
            groups,
            dw_kernel_size=dw_kernel_size,
            offset_scale=offset_scale,
            center_feature_scale=center_feature_scale,
            remove_center=remove_center,
        )
        self.norm2 = layer_norm(channels)
        self.mlp = MLP(channels, int(mlp_ratio * channels))
        self.res_norm1, self.res_norm2 = (layer_norm(channels) if res_post_norm else nn.Identity() for _ in range(2))
        self.layer_scale1, self.layer_scale2 = (
            nn.Identity() if layer_scale is None else LayerScale(channels, layer_scale) for _ in range(2)
        )
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._branch(x, self.dcn, self.norm1, self.res_norm1, self.layer_scale1)
        return x + self._branch(x, self.mlp, self.norm2, self.res_norm2, self.layer_scale2)

    def _branch(self, x: Tensor, layer: nn.Module, norm: nn.Module, res_norm: nn.Module, scale: nn.Module) -> Tensor:
        x = norm(layer(x)) if self.post_norm else res_norm(layer(norm(x)))
        out: Tensor = self.drop_path(scale(x))
        return out


class Stage(nn.Module):
    """Blocks of one resolution, and the step down to the next stage, which the caller takes.

    `forward` returns the map that dense tasks use; `downsample` makes of it the input of the next stage.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        channels: int,
        *,
        level2_post_norm_block_ids: Sequence[int],
        norm: bool,
        downsample: bool,
    ) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.level2_post_norm_block_ids = tuple(level2_post_norm_block_ids)
        self.blocks = nn.ModuleList(blocks)
        self.level2_norms = nn.ModuleList(layer_norm(channels) for _ in level2_post_norm_block_ids)
        self.norm = layer_norm(channels) if norm else nn.Identity()
        self.downsample = Downsample(channels) if downsample else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        norm_after = dict(zip(self.level2_post_norm_block_ids, self.level2_norms, strict=True))
        for index, block in enumerate(self.blocks):
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
            if index in norm_after:
                x = norm_after[index](x)
        out: Tensor = self.norm(x)
        return out


class InternImage(nn.Module):
    """InternImage, a backbone of deformable convolutions, with its classifier (CVPR 2023, arXiv 2211.05778).

    `internimage.create_model` builds the published variants. The methods follow timm's conventions; feature maps are
    [N, H, W, C] inside, at strides 4, 8, 16 and 32 of the image with sizes rounded up.

    Shapes: image [N, in_chans, H, W] of any size -> logits [N, num_classes]; with `head=None` or 0 classes, the
    pooled features [N, head_hidden_size].

    Args:
        channels: width of the first stage; doubles from stage to stage. Even.
        depths: layers of the four stages.
        groups: groups of DCNv3 in the four stages; divide the widths.
        mlp_ratio: hidden width of the MLP by its input's.
        drop_path_rate: of the last block; grows linearly from 0 in the first.
        layer_scale: initial value of the layer scale; None: no layer scale.
        offset_scale: multiplies the kernel's grid and the offsets.
        post_norm: normalise after DCNv3 and the MLP instead of before.
        res_post_norm: normalise after them as well as before.
        dw_kernel_size: of the depthwise convolution that predicts offsets and masks.
        center_feature_scale: mix the output of DCNv3 with its unsampled input, by a learned share.
        remove_center: leave out the centre tap of DCNv3.
        level2_post_norm_block_ids: the blocks of the third stage that an additional norm follows.
        head: "conv" (T to XL), "clip" (H, G; the third stage must be of even height and width), "metadata" (the
            iNaturalist 2018 model), or None for pooled features only.
        num_classes: 0 for the pooled features before the classifier.
        in_chans: channels of the image.

    Raises:
        ValueError: arguments that contradict each other, or on call an image of wrong rank, channels or size.
        TypeError: on call, an image that is not of a floating dtype.
    """

    def __init__(
        self,
        *,
        channels: int = 64,
        depths: Sequence[int] = (4, 4, 18, 4),
        groups: Sequence[int] = (4, 8, 16, 32),
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        layer_scale: float | None = None,
        offset_scale: float = 1.0,
        post_norm: bool = False,
        res_post_norm: bool = False,
        dw_kernel_size: int = 3,
        center_feature_scale: bool = False,
        remove_center: bool = False,
        level2_post_norm_block_ids: Sequence[int] = (),
        head: HeadName | None = "conv",
        num_classes: int = 1000,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        _check_arguments(
            channels, depths, groups, layer_scale, post_norm, res_post_norm, level2_post_norm_block_ids, head
        )
        widths = [channels * 2**i for i in range(4)]
        drop_path_rates = iter(_ramp(drop_path_rate, sum(depths)))
        make_block = partial(
            Block,
            mlp_ratio=mlp_ratio,
            layer_scale=layer_scale,
            offset_scale=offset_scale,
            post_norm=post_norm,
            res_post_norm=res_post_norm,
            dw_kernel_size=dw_kernel_size,
            center_feature_scale=center_feature_scale,
            remove_center=remove_center,
        )
        self.in_chans = in_chans
        self.num_classes = num_classes if head else 0
        self.pretrained_cfg: dict[str, Any] = {}
        self.stem: nn.Module = Stem(in_chans, channels)
        self.stages = nn.ModuleList()
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks = [make_block(width, groups[i], drop_path_rate=next(drop_path_rates)) for _ in range(depth)]
            self.stages.append(
                Stage(
                    blocks,
                    width,
                    level2_post_norm_block_ids=level2_post_norm_block_ids if i == 2 else (),
                    norm=not post_norm or center_feature_scale,
                    downsample=i < 3,
                )
            )
        self.head: PoolHead = HEADS[head](widths[-1], num_classes) if head else PoolHead(widths[-1])
        self.feature_info = FeatureInfo(
            {"num_chs": width, "reduction": 4 * 2**i, "module": f"stages.{i}"} for i, width in enumerate(widths)
        )

    @property
    def num_features(self) -> int:
        """Channels of what `forward_features` returns."""
        return self.head.feature_channels

    @property
    def head_hidden_size(self) -> int:
        """Length of what `forward_head` returns with `pre_logits=True`."""
        return self.head.hidden_size

    @property
    def default_cfg(self) -> dict[str, Any]:
        """timm's other name for `pretrained_cfg`."""
        return self.pretrained_cfg

    def forward(self, image: Tensor, metadata: Tensor | None = None) -> Tensor:
        return self.forward_head(self.forward_features(image), metadata=metadata)

    def forward_features(self, image: Tensor) -> Tensor:
        """Image [N, in_chans, H, W] -> features [N, h, w, num_features] for `forward_head`.

        They are the map of the last stage, or with the heads "clip" and "metadata" those of the last two stages fused
        at the third stage's size.
        """
        self.check_image(image)
        self.head.check_image_size(*image.shape[2:])
        return self.head.merge(self.forward_stages(self.stem(image)))

    def check_image(self, image: Tensor) -> None:
        """Raise what `forward` raises for an image of wrong rank, channels, size or dtype."""
        if image.ndim != 4 or image.shape[1] != self.in_chans or 0 in image.shape[2:]:
            raise ValueError(
                f"InternImage: expected images of shape [N, {self.in_chans}, H, W] with at least one pixel, got "
                f"{list(image.shape)}; add the "
                "batch dimension with image[None], reorder channels-last images with image.permute(0, 3, 1, 2), or "
                "create the model with another in_chans"
            )
        if not image.is_floating_point():
            raise TypeError(
                f"InternImage: expected images of a floating dtype, got {image.dtype}; convert them with "
                "image.float() / 255 and normalise"
            )

    def forward_stages(self, x: Tensor, last: int = 3) -> list[Tensor]:
        """Output of the stem [N, h, w, C] -> the maps of the stages up to `last`."""
        maps: list[Tensor] = []
        for i, stage in enumerate(cast(Iterable[Stage], self.stages[: last + 1])):
            x = stage(x)
            maps.append(x)
            if i < last:
                x = stage.downsample(x)
        return maps

    def forward_head(self, features: Tensor, pre_logits: bool = False, metadata: Tensor | None = None) -> Tensor:
        """Features of `forward_features` -> logits, or with `pre_logits` the vector before the classifier.

        Args:
            features: [N, h, w, num_features].
            pre_logits: return the vector before the classifier, [N, head_hidden_size].
            metadata: [N, 7] from `internimage.heads.encode_metadata`; for `head="metadata"` only.
        """
        out: Tensor = self.head(features, pre_logits=pre_logits, metadata=metadata)
        return out

    def forward_intermediates(
        self,
        image: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: Literal["NCHW", "NHWC"] = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Image -> the chosen stage maps, as in timm.

        Args:
            image: [N, in_chans, H, W].
            indices: which stages; negative ones count from the end, an int n means the last n, None all.
            norm: no effect; a map is taken after its stage's norm where the variant has one.
            stop_early: skip the stages after the last one that is asked for.
            output_fmt: layout of the maps.
            intermediates_only: return the maps alone.

        Returns:
            The maps, in order of `indices`; or what `forward_features` returns (with `stop_early` the last map that was
            computed) and the maps.

        Raises:
            ValueError: an index or `output_fmt` that does not exist, or a wrong image.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"forward_intermediates: output_fmt must be 'NCHW' or 'NHWC', got {output_fmt!r}")
        self.check_image(image)
        wanted = select_indices(indices, len(self.stages))
        last = max(wanted) if stop_early else len(self.stages) - 1
        if last == 3 and not intermediates_only:
            self.head.check_image_size(*image.shape[2:])
        maps = self.forward_stages(self.stem(image), last)
        intermediates = [maps[i] for i in wanted]
        if output_fmt == "NCHW":
            intermediates = [x.permute(0, 3, 1, 2) for x in intermediates]
        if intermediates_only:
            return intermediates
        return (self.head.merge(maps) if last == 3 else maps[-1]), intermediates

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] | None = None, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the given stage maps do not need, as in timm.

        Args:
            indices: the stages to keep maps of; later ones are removed.
            prune_norm: no effect; the norms belong to the stages.
            prune_head: replace the head by a plain pooling.

        Returns:
            The indices, none negative.
        """
        wanted = select_indices(indices, len(self.stages))
        last = max(wanted)
        width: int = self.feature_info[last]["num_chs"]
        if last + 1 < len(self.stages):
            self.stages = self.stages[: last + 1]
            self.stages[last].downsample = nn.Identity()
        if prune_head:
            self.head = PoolHead(width)
            self.num_classes = 0
        return wanted

    def get_classifier(self) -> nn.Module:
        """The last linear layer, or an Identity where there are no classes."""
        return self.head.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a freshly initialised one.

        Args:
            num_classes: 0 for the pooled features.
            global_pool: accepted for timm's sake; each head has one way of pooling.

        Raises:
            ValueError: the model was made without a head, or another pooling is asked for.
        """
        if global_pool not in (None, "avg"):
            raise ValueError(f"reset_classifier: this model pools in one way only, got global_pool={global_pool!r}")
        if type(self.head) is PoolHead and num_classes:
            raise ValueError(
                "reset_classifier: this model was made with head=None; create it with head='conv' or 'clip' instead"
            )
        reference = next(self.parameters())
        self.head.reset_classifier(num_classes)
        self.head.to(device=reference.device, dtype=reference.dtype)
        self.num_classes = num_classes

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of storing its activations."""
        for stage in cast(Iterable[Stage], self.stages):
            stage.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that order the parameters by depth, for timm's layer-wise learning rates.

        A stage's norms and downsampling join its last block.
        """
        if coarse:
            return {"stem": r"^stem", "blocks": r"^stages\.(\d+)"}
        join_previous = (99999,)
        blocks = [(r"^stages\.(\d+)\.blocks\.(\d+)", None), (r"^stages\.(\d+)", join_previous)]
        return {"stem": r"^stem", "blocks": blocks}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters exempt from weight decay beyond the vectors and biases: none."""
        return set()


class InternImageFeatures(InternImage):
    """InternImage as a backbone of dense tasks: image -> list of stage maps [N, C, H, W].

    Args:
        out_indices: which stages' maps to return.
        **arguments: those of `InternImage`.
    """

    def __init__(self, *, out_indices: Sequence[int] = (0, 1, 2, 3), **arguments: Any) -> None:
        super().__init__(**arguments)
        self.out_indices = tuple(select_indices(out_indices, len(self.stages)))
        self.feature_info = FeatureInfo(self.feature_info, out_indices=self.out_indices)

    def forward(self, image: Tensor) -> list[Tensor]:  # type: ignore[override]
        self.check_image(image)
        maps = self.forward_stages(self.stem(image), max(self.out_indices))
        return [maps[i].permute(0, 3, 1, 2) for i in self.out_indices]


def _check_arguments(
    channels: int,
    depths: Sequence[int],
    groups: Sequence[int],
    layer_scale: float | None,
    post_norm: bool,
    res_post_norm: bool,
    level2_post_norm_block_ids: Sequence[int],
    head: str | None,
) -> None:
    if channels < 2 or channels % 2:
        raise ValueError(f"InternImage: channels must be even and positive (the stem starts at half), got {channels}")
    if len(depths) != 4 or len(groups) != 4 or min(depths) < 1 or min(groups) < 1:
        raise ValueError(
            f"InternImage: depths and groups are four positive numbers each, got depths={tuple(depths)} and "
            f"groups={tuple(groups)}"
        )
    widths = [channels * 2**i for i in range(4)]
    if any(width % count for width, count in zip(widths, groups, strict=True)):
        raise ValueError(
            f"InternImage: the groups must divide the widths of the stages, got groups={tuple(groups)} for widths "
            f"{tuple(widths)}; as many channels in every group gives for example "
            f"{tuple(math.gcd(channels, groups[0]) * 2**i for i in range(4))}"
        )
    if res_post_norm and (post_norm or layer_scale is not None):
        raise ValueError(
            "InternImage: res_post_norm goes with neither post_norm nor layer_scale, got "
            f"post_norm={post_norm} and layer_scale={layer_scale}"
        )
    if any(not 0 <= i < depths[2] for i in level2_post_norm_block_ids) or sorted(
        set(level2_post_norm_block_ids)
    ) != list(level2_post_norm_block_ids):
        raise ValueError(
            f"InternImage: level2_post_norm_block_ids are increasing block numbers of the third stage, 0 to "
            f"{depths[2] - 1}, got {tuple(level2_post_norm_block_ids)}"
        )
    if head is not None and head not in HEADS:
        raise ValueError(f"InternImage: head must be one of {', '.join(HEADS)} or None, got {head!r}")


def _ramp(end: float, steps: int) -> list[float]:
    """`steps` evenly spaced numbers from 0 to `end`."""
    return [end * i / max(1, steps - 1) for i in range(steps)]
