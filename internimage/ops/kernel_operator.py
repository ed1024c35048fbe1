"""An operator with kernels of its own: how it is registered, called and differentiated. See docs/operator.md."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

from internimage.ops.backend import get_backend
from internimage.ops.build import native_available
from internimage.ops.schema import SCHEMA_VERSION, check_version, library

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # what the kernels are built for

# Per sample and channel: four corners and the weight, a multiplication and an addition each, as InternImage counts.
FLOPS_PER_SAMPLE = 10

Three = tuple[Tensor, Tensor, Tensor]
Gradients = tuple[Tensor, ...]
Tensors = TypeVar("Tensors", bound=tuple[Tensor, ...])
Options = TypeVar("Options", bound=tuple[Any, ...])


def autocasts(tensor: Tensor) -> bool:
    """Whether autocast is on for the tensor's device; the meta device knows none."""
    return not tensor.is_meta and torch.is_autocast_enabled(tensor.device.type)


class KernelOperator(ABC, Generic[Tensors, Options]):
    """`torch.ops.internimage.NAME` and `NAME_backward`: tensors, then the options, then the schema's version.

    The first tensors, or all, have gradients of their shape, dtype and strides of a contiguous tensor; so has the
    output, of the first tensor's dtype. `NAME_backward` takes the output's gradient before, and behind the options
    whether to be deterministic. Where no kernel is loaded, both fall back on the definition.
    """

    def __init__(
        self, name: str, options: Callable[..., Options], *, tensors: int = 3, differentiable: int = 3
    ) -> None:
        """Registers what the compiler, autograd and devices without a kernel need; the schemas are there already.

        Args:
            options: makes the options from the operator's arguments behind the tensors.
            tensors: how many the operator takes.
            differentiable: how many of these have gradients.
        """
        self._options = options
        self._tensors = tensors
        self._differentiable = differentiable
        self._forward = getattr(torch.ops.internimage, name)
        self._backward = getattr(torch.ops.internimage, f"{name}_backward").default
        torch.library.impl(library, name, "CompositeExplicitAutograd")(self._run)
        torch.library.impl(library, f"{name}_backward", "CompositeExplicitAutograd")(self._run_backward)
        torch.library.register_fake(f"internimage::{name}")(self._fake)
        torch.library.register_fake(f"internimage::{name}_backward")(self._fake_backward)
        torch.library.register_autograd(
            f"internimage::{name}", self._registered_backward, setup_context=self._setup_context
        )

    @abstractmethod
    def define(self, tensors: Tensors, options: Options) -> Tensor:
        """The definition in plain PyTorch, differentiable as often as autograd allows."""

    @abstractmethod
    def define_gradients(self, grad_output: Tensor, tensors: Tensors, options: Options) -> Gradients:
        """The derivatives of the definition by the differentiable tensors, for use below autograd."""

    @abstractmethod
    def output_shape(self, tensors: Tensors, options: Options) -> tuple[int, ...]:
        """Of the result; sizes may be symbols."""

    def __call__(self, tensors: Tensors, options: Options) -> Tensor:
        """The result by the implementation in force; the arguments must be checked."""
        if not native_available(tensors[0].device.type, get_backend()):
            return self.define(tensors, options)
        if torch.compiler.is_compiling():
            return self.call_registered(tensors, options)
        if torch._C._are_functorch_transforms_active():
            return self.define(tensors, options)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return cast(Tensor, _Differentiable.apply(self, options, *tensors))  # type: ignore[no-untyped-call]
        return self.call_kernel(tensors, options)

    def call_registered(self, tensors: Tensors, options: Options) -> Tensor:
        """The result by the operator with its registered autograd formula, as the compiler wants it."""
        return cast(Tensor, self._forward(*tensors, *options, SCHEMA_VERSION))

    def call_kernel(self, tensors: Tensors, options: Options) -> Tensor:
        """The result below autograd."""
        with torch._C._AutoDispatchBelowAutograd():
            return cast(Tensor, self._forward.default(*tensors, *options, SCHEMA_VERSION))

    def call_backward(self, grad_output: Tensor, tensors: Tensors, options: Options) -> Gradients:
        """The gradients by the operator."""
        deterministic = torch.are_deterministic_algorithms_enabled()
        found = self._backward(grad_output, *tensors, *options, deterministic, SCHEMA_VERSION)
        return (found,) if self._differentiable == 1 else cast(Gradients, found)

    def all_gradients(self, grad_output: Tensor, tensors: Tensors, options: Options) -> tuple[Tensor | None, ...]:
        """One for each tensor, None for those that have none."""
        without = self._tensors - self._differentiable
        return *self.call_backward(grad_output, tensors, options), *(None,) * without

    def _run(self, *arguments: Any) -> Tensor:
        tensors, options = self._split(*arguments)
        return self.define(tensors, options).contiguous()

    def _run_backward(self, grad_output: Tensor, *arguments: Any) -> Gradients | Tensor:
        *rest, _deterministic, version = arguments
        return self._as_returned(self.define_gradients(grad_output, *self._split(*rest, version)))

    def _as_returned(self, gradients: Gradients) -> Gradients | Tensor:
        """As the schema says: a single tensor is no tuple."""
        return gradients[0] if self._differentiable == 1 else gradients

    def _split(self, *arguments: Any) -> tuple[Tensors, Options]:
        *rest, version = arguments
        check_version(version)
        return cast(Tensors, tuple(rest[: self._tensors])), self._options(*rest[self._tensors :])

    def _fake(self, *arguments: Any) -> Tensor:
        tensors, options = self._split(*arguments)
        return tensors[0].new_empty(self.output_shape(tensors, options))

    def _fake_backward(self, grad_output: Tensor, *arguments: Any) -> Gradients | Tensor:
        differentiable = arguments[: self._differentiable]
        return self._as_returned(tuple(tensor.new_empty(tensor.shape) for tensor in differentiable))

    def _setup_context(self, ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[: self._tensors])
        ctx.arguments = inputs[self._tensors :]

    def _registered_backward(self, ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        tensors, options = self._split(*ctx.saved_tensors, *ctx.arguments)
        return *self.all_gradients(grad_output, tensors, options), *(None for _ in ctx.arguments)


# A call through the registered autograd formula costs 90 microseconds more than through this class. Compiled code goes
# by the registered one: an autograd.Function in a compiled region would bypass the compiler's cache.
class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, operator: KernelOperator[Any, Any], options: Any, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.operator, ctx.options = operator, options
        return operator.call_kernel(tensors, options)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: derivatives of this backward are wanted
            output = ctx.operator.define(tensors, ctx.options)
            wanted = [tensor for tensor in tensors if tensor.requires_grad]
            found = iter(torch.autograd.grad(output, wanted, grad_output, create_graph=True))
            return None, None, *(next(found) if tensor.requires_grad else None for tensor in tensors)
        with torch._C._AutoDispatchBelowAutograd():
            return None, None, *ctx.operator.all_gradients(grad_output, tensors, ctx.options)
