"""The operators' schemas: the one place that says what `torch.ops.internimage` holds.

They are defined from Python when `internimage.ops` is imported, so that exported programs load on machines without a
compiler. A library built for processes without Python carries the same text (`build_library(standalone=True)`).
"""

# Raise it with every change of meaning: it is an argument of each call, so caches of compiled graphs miss, and a
# package that was compiled for another version is refused by the kernels.
SCHEMA_VERSION = 1

_DCNV3_ARGUMENTS = (
    "Tensor input, Tensor offset, Tensor mask, int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, "
    "int groups, float offset_scale, bool remove_center, bool softmax"
)

SCHEMAS: dict[str, str] = {
    "dcnv3": f"dcnv3({_DCNV3_ARGUMENTS}, int version) -> Tensor",
    "dcnv3_backward": (
        f"dcnv3_backward(Tensor grad_output, {_DCNV3_ARGUMENTS}, bool deterministic, int version) "
        "-> (Tensor, Tensor, Tensor)"
    ),
    "fused_convolution": (
        "fused_convolution(Tensor input, Tensor weight, Tensor bias, Tensor? norm, Tensor? residual, int kernel_size, "
        "int stride, bool gelu, float eps, int version) -> Tensor"
    ),
    "fused_mlp": (
        "fused_mlp(Tensor input, Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2, Tensor? input_norm, "
        "Tensor? output_norm, float eps, int version) -> Tensor"
    ),
    "fused_depthwise": (
        "fused_depthwise(Tensor input, Tensor weight, Tensor bias, Tensor norm, int kernel_size, float eps, "
        "int version) -> Tensor"
    ),
}


def check_version(version: int) -> None:
    """
    Raises:
        RuntimeError: a program calls another version of the operators.
    """
    if version != SCHEMA_VERSION:
        raise RuntimeError(
            f"internimage: this program was made for version {version} of the operators, this library has version "
            f"{SCHEMA_VERSION}; export it again"
        )
