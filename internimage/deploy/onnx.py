"""ONNX files without operators of our own: what the operators are in standard ones, and running a file."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from internimage.deploy.logs import errors_only
from internimage.ops.geometry import Geometry
from internimage.ops.schema import check_version

OPSET = 20  # DeformConv came with 19, GridSample's present form with 20


def write_onnx(program: ExportedProgram, path: Path, outputs: Sequence[str]) -> None:
    """Write an exported program as an ONNX file; weights beyond its limit of 2 GB lie in a file beside it.

    DCNv3 becomes DeformConv; multi-scale deformable attention, GridSample; RoIAlign and NMS, the operators of these
    names.

    Args:
        program: from `export`.
        path: of the file.
        outputs: their names.

    Raises:
        ImportError: a package of the extra `onnx` is missing.
        ValueError: the program calls an operator that has no translation.
    """
    _require("onnx", "onnxscript")
    operators = torch.ops.internimage
    table: dict[Any, Callable[..., Any]] = {
        operators.dcnv3.default: _dcnv3,
        operators.ms_deform_attn.default: _ms_deform_attn,
        operators.roi_align.default: _roi_align,
        operators.nms.default: _nms,
        torch.ops.aten.sort.stable: _stable_sort,
    }
    # The exporter tells of packages that it doesn't need, and of folding that it doesn't do.
    with errors_only("torch.onnx", "onnxscript"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            custom_translation_table=table,
            input_names=list(program.graph_signature.user_inputs),
            output_names=list(outputs),
            verbose=False,
        )
    assert written is not None
    large = sum(tensor.nbytes for tensor in program.state_dict.values()) > 1.5e9
    written.save(str(path), external_data=large)


def load_onnx(path: Path) -> Callable[..., Sequence[Tensor]]:
    """An ONNX file as a function of tensors on the CPU, by onnxruntime.

    Raises:
        ImportError: onnxruntime is missing.
        Exception: one of onnxruntime's: the file is damaged, or asks for what onnxruntime has not got.
    """
    _require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def call(*inputs: Tensor) -> list[Tensor]:
        feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return [torch.from_numpy(np.asarray(output)) for output in session.run(None, feed)]

    return call


def _require(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'ONNX needs {" and ".join(missing)}; run: pip install "internimage[onnx]"')


def _op() -> Any:
    return importlib.import_module("onnxscript").values.Opset("", OPSET)


def _ints(*values: int) -> Any:
    return _op().Constant(value_ints=values)


def _dcnv3(input: Any, offset: Any, mask: Any, *arguments: Any) -> Any:
    """[N, H, W, C], [N, Q, R, G * K * 2], [N, Q, R, G * K] -> [N, Q, R, C].

    As a depthwise DeformConv with weights of one. Its taps run row by row and its offsets are y before x, from the
    plain grid: from s (p + d) of DCNv3, where p is the tap's place in the grid, that is s (p + d) - p.
    """
    *rest, version = arguments
    check_version(version)
    geometry = Geometry(*rest)
    op = _op()
    (kernel_h, kernel_w), (dilation_h, dilation_w) = geometry.kernel_size, geometry.dilation
    taps = kernel_h * kernel_w
    y, x = (grid.flatten() for grid in np.mgrid[:kernel_h, :kernel_w])
    order = x * kernel_h + y  # where each tap is in DCNv3's order, the centre included
    place = np.stack(
        (y * dilation_h - dilation_h * (kernel_h - 1) // 2, x * dilation_w - dilation_w * (kernel_w - 1) // 2), axis=-1
    )
    offset = op.Reshape(offset, _ints(0, 0, 0, geometry.groups, geometry.taps, 2))
    mask = op.Reshape(mask, _ints(0, 0, 0, geometry.groups, geometry.taps))
    if geometry.softmax:
        mask = op.Softmax(mask, axis=-1)
    if geometry.remove_center:  # a tap of no weight
        centre = kernel_w // 2 * kernel_h + kernel_h // 2
        order = np.where(order > centre, order - 1, np.where(order == centre, taps - 1, order))
        offset = op.Pad(offset, _ints(*[0] * 10, 1, 0))
        mask = op.Pad(mask, _ints(*[0] * 9, 1))
    offset = op.Gather(op.Gather(offset, _ints(*order.tolist()), axis=4), _ints(1, 0), axis=5)
    mask = op.Gather(mask, _ints(*order.tolist()), axis=4)
    scale = geometry.offset_scale
    if scale != 1:
        shift = op.Reshape(op.Constant(value_floats=((scale - 1) * place).flatten().tolist()), _ints(taps, 2))
        offset = op.Add(op.Mul(offset, op.CastLike(op.Constant(value_float=scale), offset)), op.CastLike(shift, offset))
    offset = op.Transpose(offset, perm=[0, 3, 4, 5, 1, 2])  # [N, G, K, 2, Q, R]
    offset = op.Reshape(offset, op.Concat(_ints(0, geometry.groups * taps * 2), op.Shape(offset, start=4), axis=0))
    mask = op.Transpose(mask, perm=[0, 3, 4, 1, 2])
    mask = op.Reshape(mask, op.Concat(_ints(0, geometry.groups * taps), op.Shape(mask, start=3), axis=0))
    channels = int(input.shape[3])
    ones = op.CastLike(op.Expand(op.Constant(value_float=1.0), _ints(channels, 1, kernel_h, kernel_w)), input)
    sampled = op.DeformConv(
        op.Transpose(input, perm=[0, 3, 1, 2]),
        ones,
        offset,
        None,
        mask,
        kernel_shape=[kernel_h, kernel_w],
        strides=list(geometry.stride),
        pads=list(geometry.padding) * 2,
        dilations=list(geometry.dilation),
        group=channels,
        offset_group=geometry.groups,
    )
    return op.Transpose(sampled, perm=[0, 2, 3, 1])


def _ms_deform_attn(value: Any, locations: Any, weights: Any, sizes: Sequence[Any], version: int) -> Any:
    """[N, S, M, D], [N, Q, M, L, P, 2], [N, Q, M, L, P] -> [N, Q, M * D], by a GridSample for each level."""
    check_version(version)
    op = _op()
    channels = int(value.shape[3])
    heads = int(value.shape[2])
    sides = [op.Reshape(_as_int64(size), _ints(1)) for size in sizes]
    grids = op.Sub(
        op.Mul(locations, op.CastLike(op.Constant(value_float=2.0), locations)),
        op.CastLike(op.Constant(value_float=1.0), locations),
    )
    output, begin = None, _ints(0)
    for level, (height, width) in enumerate(zip(sides[::2], sides[1::2], strict=True)):
        end = op.Add(begin, op.Mul(height, width))
        pixels = op.Transpose(op.Slice(value, begin, end, _ints(1)), perm=[0, 2, 3, 1])
        pixels = op.Reshape(pixels, op.Concat(_ints(-1, channels), height, width, axis=0))  # [N * M, D, H, W]
        grid = op.Transpose(op.Gather(grids, op.Constant(value_int=level), axis=3), perm=[0, 2, 1, 3, 4])
        grid = op.Reshape(grid, op.Concat(_ints(-1), op.Shape(grid, start=2), axis=0))  # [N * M, Q, P, 2]
        share = op.Transpose(op.Gather(weights, op.Constant(value_int=level), axis=3), perm=[0, 2, 1, 3])
        share = op.Reshape(share, op.Concat(_ints(-1, 1), op.Shape(share, start=2), axis=0))  # [N * M, 1, Q, P]
        sampled = op.GridSample(pixels, grid, mode="linear", padding_mode="zeros", align_corners=0)
        part = op.ReduceSum(op.Mul(sampled, share), _ints(3), keepdims=0)  # [N * M, D, Q]
        output = part if output is None else op.Add(output, part)
        begin = end
    joined = op.Reshape(output, op.Concat(_ints(-1, heads * channels), op.Shape(output, start=2), axis=0))
    return op.Transpose(joined, perm=[0, 2, 1])


def _roi_align(
    input: Any,
    rois: Any,
    output_size: Sequence[int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    version: int,
) -> Any:
    check_version(version)
    op = _op()
    index = op.Cast(op.Reshape(op.Slice(rois, _ints(0), _ints(1), _ints(1)), _ints(-1)), to=7)  # INT64
    count = op.Shape(input, start=0, end=1)
    first = op.Constant(value_int=0)
    inside = op.And(op.GreaterOrEqual(index, first), op.Less(index, count))
    pooled = op.RoiAlign(
        input,
        op.CastLike(op.Slice(rois, _ints(1), _ints(5), _ints(1)), input),
        op.Where(inside, index, first),
        coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
        mode="avg",
        output_height=output_size[0],
        output_width=output_size[1],
        sampling_ratio=sampling_ratio,
        spatial_scale=spatial_scale,
    )
    return op.Where(op.Reshape(inside, _ints(-1, 1, 1, 1)), pooled, op.CastLike(op.Constant(value_float=0.0), pooled))


def _nms(boxes: Any, groups: Any, iou_threshold: float, version: int) -> Any:
    """[K, 4], in falling order within each group; [K], negative for none -> [K], bool."""
    check_version(version)
    op = _op()
    count = op.Squeeze(op.Shape(groups))
    one = op.Constant(value_int=1)
    rank = op.Cast(op.Range(count, op.Constant(value_int=0), op.Constant(value_int=-1)), to=1)  # K ... 1, FLOAT
    most = op.Max(op.ReduceMax(groups, keepdims=0), op.Constant(value_int=0))
    numbers = op.Unsqueeze(op.Range(op.Constant(value_int=0), op.Add(most, one), one), _ints(1))
    scores = op.Where(op.Equal(numbers, op.Unsqueeze(groups, _ints(0))), rank, op.Constant(value_float=-1.0))
    chosen = op.NonMaxSuppression(
        op.Cast(op.Unsqueeze(boxes, _ints(0)), to=1),
        op.Unsqueeze(scores, _ints(0)),  # a class for each group
        op.Reshape(count, _ints(1)),
        op.Constant(value_float=iou_threshold),
        op.Constant(value_float=0.0),
    )
    chosen = op.Reshape(op.Slice(chosen, _ints(2), _ints(3), _ints(1)), _ints(-1))
    none = op.Expand(op.Constant(value_int=0), op.Shape(groups))
    kept = op.ScatterElements(none, chosen, op.Expand(one, op.Shape(chosen)), axis=0)
    return op.Cast(kept, to=9)  # BOOL


def _stable_sort(input: Any, *, stable: bool = False, dim: int = -1, descending: bool = False) -> Any:
    """TopK of all: of equal values it takes the first first."""
    op = _op()
    count = op.Gather(op.Shape(input), _ints(dim), axis=0)
    return op.TopK(input, count, axis=dim, largest=int(descending), sorted=1)


def _as_int64(size: Any) -> Any:
    return _op().Constant(value_int=size) if isinstance(size, int) else _op().Cast(size, to=7)
