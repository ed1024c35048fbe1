"""A copy of a model for inference in float32 on a CPU: packed weights, and each layer fused with what surrounds it.

Exact in the arithmetic of real numbers: what is folded into a weight (layer scale, batch norm) was a factor of it, and
offset, mask and centre scale come from one product in place of three.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NoReturn, TypeVar, cast

import torch
from torch import Tensor, nn

from internimage.backbone import Block, Downsample, InternImage, Stage, Stem
from internimage.composite import CompositeInternImage
from internimage.heads import ConvHead
from internimage.layers import MLP, NORM_EPS, DCNv3, LayerScale
from internimage.ops import dcnv3, get_backend
from internimage.ops.build import native_available
from internimage.ops.fused import fused_convolution, fused_depthwise, fused_mlp, pack

Model = TypeVar("Model", InternImage, CompositeInternImage)


def prepare_for_inference(model: Model) -> Model:
    """A copy of a model that computes the same faster, in float32 on a CPU; the model itself stays as it is.

    The copy compiles, exports and packages like the model. It can't be trained and takes no checkpoint: load the
    weights first. Without native kernels (see `internimage doctor`) it is a plain copy in evaluation mode.

    Args:
        model: an InternImage with any head or none, its `features_only` form, or a `CompositeInternImage`.

    Raises:
        TypeError: another kind of model.
        ValueError: parameters that are not float32 on the CPU.
    """
    if not isinstance(model, InternImage | CompositeInternImage):
        raise TypeError(
            f"prepare_for_inference: expected an InternImage or a CompositeInternImage, got {type(model).__name__}; "
            "prepare the backbone inside a larger model"
        )
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
            raise ValueError(
                f"prepare_for_inference: expected float32 parameters on the CPU, got {name} as {parameter.dtype} on "
                f"{parameter.device}; call model.float().cpu() first, or run the model as it is"
            )
    replacements = dict(_replacements(model)) if native_available("cpu", get_backend()) else {}
    with torch.no_grad():
        # deepcopy takes what its memo holds for the copy, so that the large weights are never copied.
        prepared = copy.deepcopy(model, {id(old): new for old, new in replacements.items()})
    for module in prepared.modules():
        module.training = False
        if isinstance(module, Stage):
            module.grad_checkpointing = False
    return prepared.requires_grad_(False)


def _replacements(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    for module in model.modules():
        match module:
            case _Prepared():  # it was prepared before
                continue
            case Stem():
                yield module, PreparedStem(module)
            case Downsample():
                yield module, FusedConvolution(module.conv, norm=module.norm)
            case Block():
                yield module, PreparedBlock(module)
            case ConvHead():
                yield module, PreparedConvHead(module)


class _Prepared(nn.Module):
    """Neither trained nor loaded into."""

    def train(self, mode: bool = True) -> _Prepared:
        if mode:
            raise RuntimeError(
                "internimage: a model from prepare_for_inference can't be trained; train the model it was made from"
            )
        return self

    def _load_from_state_dict(self, *arguments: object) -> NoReturn:
        raise RuntimeError(
            "internimage: a model from prepare_for_inference takes no weights; load them into the model it was made "
            "from, and prepare that"
        )


class FusedConvolution(_Prepared):
    """A convolution or linear layer with norm and GELU. Shapes: [N, H, W, C] -> [N, Q, R, outputs].

    Args:
        layer: square odd kernel, padding half of it.
        norm: of the output.
        gelu: after the norm.
        scale: [outputs], multiplies the result (the norm's, where there is one).
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        *,
        norm: nn.Module | None = None,
        gelu: bool = False,
        scale: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = (
            (layer.kernel_size[0], layer.stride[0]) if isinstance(layer, nn.Conv2d) else (1, 1)
        )
        self.gelu = gelu
        weight, bias = _weight_and_bias(layer, None if isinstance(norm, nn.LayerNorm) else scale)
        self.register_buffer("weight", pack(weight))
        self.register_buffer("bias", bias)
        self.norm = FusedNorm(norm, scale) if isinstance(norm, nn.LayerNorm) else None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return fused_convolution(
            x,
            self.weight,
            self.bias,
            norm=None if self.norm is None else self.norm.affine,
            residual=residual,
            kernel_size=self.kernel_size,
            stride=self.stride,
            gelu=self.gelu,
            eps=NORM_EPS,
        )


class FusedNorm(_Prepared):
    """Weight and bias of a LayerNorm in one tensor [2, C]."""

    affine: Tensor

    def __init__(self, norm: nn.LayerNorm, scale: Tensor | None = None) -> None:
        super().__init__()
        affine = torch.stack([norm.weight, norm.bias]).detach()
        self.register_buffer("affine", affine if scale is None else affine * scale)


class PreparedStem(_Prepared):
    """See `Stem`."""

    def __init__(self, stem: Stem) -> None:
        super().__init__()
        self.conv1 = FusedConvolution(stem.conv1, norm=stem.norm1, gelu=True)
        self.conv2 = FusedConvolution(stem.conv2, norm=stem.norm2)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.conv1(image.permute(0, 2, 3, 1)))
        return out


class PreparedBlock(_Prepared):
    """See `Block`."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        scales = [
            scale.gamma.detach() if isinstance(scale, LayerScale) else None
            for scale in (block.layer_scale1, block.layer_scale2)
        ]
        after = (block.norm1, block.norm2) if block.post_norm else (block.res_norm1, block.res_norm2)
        self.norm = nn.Identity() if block.post_norm else copy.deepcopy(block.norm1)
        self.dcn = PreparedDCNv3(block.dcn, norm=after[0], scale=scales[0])
        self.mlp = PreparedMLP(
            block.mlp, input_norm=None if block.post_norm else block.norm2, output_norm=after[1], scale=scales[1]
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp(self.dcn(self.norm(x), residual=x))
        return out


class PreparedDCNv3(_Prepared):
    """See `layers.DCNv3`; adds the residual."""

    depthwise_weight: Tensor
    depthwise_bias: Tensor

    def __init__(self, layer: DCNv3, *, norm: nn.Module, scale: Tensor | None) -> None:
        super().__init__()
        self.groups = layer.groups
        self.offset_scale = layer.offset_scale
        self.remove_center = layer.remove_center
        self.input_proj = FusedConvolution(layer.input_proj)
        self.depthwise_kernel_size = layer.depthwise.kernel_size[0]
        self.register_buffer(
            "depthwise_weight",
            layer.depthwise.weight.detach().flatten(1).t().clone(memory_format=torch.contiguous_format),
        )
        self.register_buffer("depthwise_bias", cast(Tensor, layer.depthwise.bias).detach().clone())
        self.norm = FusedNorm(layer.norm)
        predictions = [layer.offset, layer.mask, *([layer.center_scale] if layer.center_scale is not None else [])]
        self.widths = [prediction.out_features for prediction in predictions]
        self.predictions = FusedConvolution(_joined(predictions))
        self.output_proj = FusedConvolution(layer.output_proj, norm=norm, scale=scale)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        value = self.input_proj(x)
        query = fused_depthwise(
            x,
            self.depthwise_weight,
            self.depthwise_bias,
            self.norm.affine,
            kernel_size=self.depthwise_kernel_size,
            eps=NORM_EPS,
        )
        offset, mask, *center_scale = self.predictions(query).split(self.widths, dim=-1)
        sampled = dcnv3(
            value,
            offset,
            mask,
            kernel_size=DCNv3.KERNEL_SIZE,
            padding=DCNv3.KERNEL_SIZE // 2,
            groups=self.groups,
            offset_scale=self.offset_scale,
            remove_center=self.remove_center,
            softmax=True,
        )
        for share in center_scale:
            grouped, unsampled = (t.unflatten(-1, (self.groups, -1)) for t in (sampled, value))
            sampled = torch.lerp(grouped, unsampled, share.sigmoid().unsqueeze(-1)).flatten(-2)
        out: Tensor = self.output_proj(sampled, residual)
        return out


class PreparedMLP(_Prepared):
    """See `layers.MLP`; with the norms around it and the residual."""

    def __init__(
        self, mlp: MLP, *, input_norm: nn.LayerNorm | None, output_norm: nn.Module, scale: Tensor | None
    ) -> None:
        super().__init__()
        self.input_norm = None if input_norm is None else FusedNorm(input_norm)
        self.fc1 = FusedConvolution(mlp.fc1)
        self.fc2 = FusedConvolution(mlp.fc2, norm=output_norm, scale=scale)

    def forward(self, x: Tensor) -> Tensor:
        return fused_mlp(
            x,
            self.fc1.weight,
            self.fc1.bias,
            self.fc2.weight,
            self.fc2.bias,
            input_norm=None if self.input_norm is None else self.input_norm.affine,
            output_norm=None if self.fc2.norm is None else self.fc2.norm.affine,
            eps=NORM_EPS,
        )


class PreparedConvHead(_Prepared, ConvHead):
    """See `ConvHead`; the batch norm is folded into the convolution."""

    def __init__(self, head: ConvHead) -> None:
        nn.Module.__init__(self)
        self.feature_channels, self.hidden_size = head.feature_channels, head.hidden_size
        norm = head.norm
        mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        scale = norm.weight.detach() * torch.rsqrt(variance + norm.eps)
        folded = _linear(head.conv.weight.detach().flatten(1), -mean)
        self.widen = FusedConvolution(folded, gelu=True, scale=scale)
        self.widen.bias += norm.bias.detach()
        self.classifier = copy.deepcopy(head.classifier)

    def pool(self, features: Tensor) -> Tensor:
        widened: Tensor = self.widen(features)
        return widened.mean(dim=(1, 2))


def _weight_and_bias(layer: nn.Conv2d | nn.Linear, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    weight = layer.weight.detach()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().clone()
    if scale is None:
        return weight, bias
    return weight * scale.view(-1, *(1 for _ in weight.shape[1:])), bias * scale


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


def _joined(layers: list[nn.Linear]) -> nn.Linear:
    """One linear layer with the outputs of several, one after the other."""
    return _linear(torch.cat([x.weight.detach() for x in layers]), torch.cat([x.bias.detach() for x in layers]))
