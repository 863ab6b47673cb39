"""Convolutions whose second derivative is as fast as the convolutions of training."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_DIMENSIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}


class QuickConvolutions(TorchFunctionMode):
    """Context manager that runs convolutions on the CPU through `_Convolution`, with the same results.

    PyTorch computes the second derivative with respect to the weights as a convolution with a kernel as large as the
    image, for which the CPU has no fast code. The weight gradient that training uses gives the same numbers, and halves
    the cost of a Hessian-vector product of a small network on 28 × 28 pixels.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, or `_Convolution` instead of a convolution."""
        dimensions = _DIMENSIONS.get(func)
        found = None if dimensions is None else _quick(dimensions, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if found is None else found


def _quick(
    dimensions: int,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> torch.Tensor | None:
    """Return the result of a convolution, or None if `_Convolution` does not support the arguments."""
    plain = not isinstance(padding, str) and input.dim() == dimensions + 2 and not input.is_complex()
    if not plain or input.dtype != weight.dtype or input.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return None
    sizes = [[value] * dimensions if isinstance(value, int) else list(value) for value in (stride, padding, dilation)]
    sizes = [size * dimensions if len(size) == 1 else size for size in sizes]
    apply: Any = _Convolution.apply
    return apply(input, weight, bias, (*sizes, False, [0] * dimensions, groups))  # type: ignore[no-any-return]


class _Convolution(torch.autograd.Function):
    """A convolution whose backward pass is `_Gradient`."""

    @staticmethod
    def forward(ctx: Any, input: Any, weight: Any, bias: Any, options: Any) -> Any:
        ctx.save_for_backward(input, weight)
        ctx.options = options
        return torch.ops.aten.convolution(input, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        apply: Any = _Gradient.apply
        return (*apply(grads[0], *ctx.saved_tensors, ctx.options, list(ctx.needs_input_grad[:3])), None)


class _Gradient(torch.autograd.Function):
    """The gradients of a convolution, which are bilinear in the output gradient and in the input or weight."""

    @staticmethod
    def forward(ctx: Any, grad: Any, input: Any, weight: Any, options: Any, wanted: Any) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, input, weight)
        ctx.options = options
        return _gradient(grad, input, weight, options, wanted)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_input: Any, of_weight: Any, of_bias: Any) -> Any:
        grad, input, weight = ctx.saved_tensors
        parts = []
        if of_input is not None:
            parts.append(torch.ops.aten.convolution(of_input, weight, None, *ctx.options))
        if of_weight is not None:
            parts.append(torch.ops.aten.convolution(input, of_weight, None, *ctx.options))
        if of_bias is not None:
            parts.append(of_bias.view(-1, *[1] * (grad.dim() - 2)).expand_as(grad))
        by_grad = sum(parts[1:], parts[0]) if parts and ctx.needs_input_grad[0] else None
        by_input = by_weight = None
        if of_weight is not None and ctx.needs_input_grad[1]:
            by_input = _gradient(grad, input, of_weight, ctx.options, [True, False, False])[0]
        if of_input is not None and ctx.needs_input_grad[2]:
            by_weight = _gradient(grad, of_input, weight, ctx.options, [False, True, False])[1]
        return by_grad, by_input, by_weight, None, None


def _gradient(grad: Any, input: Any, weight: Any, options: Any, wanted: list[bool]) -> Any:
    return torch.ops.aten.convolution_backward(grad, input, weight, [weight.shape[0]], *options, wanted)
