"""Checks of the memory layout of tensors."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from fallline.backends.blocks import LOWEST
from fallline.backends.split import DTYPES

PLAIN = (torch.Tensor, torch.nn.Parameter)
NAMED_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}  # names that `state_dtype` may have
HALF = (torch.float16, torch.bfloat16)
FLOATS = (torch.float32, torch.float64, *HALF)
INTEGERS = {*LOWEST, *DTYPES.values()}  # of states in blocks and remainders


def dtype_name(tensor: torch.Tensor) -> str:
    """Return the name of a tensor's dtype, such as "float32" for torch.float32."""
    return str(tensor.dtype).removeprefix("torch.")


_dtype, _device, _layout = (vars(torch._C.TensorBase)[name].__get__ for name in ("dtype", "device", "layout"))


def kinds(params: Iterable[Any], grads: Iterable[Any], states: Iterable[Iterable[Any]]) -> list[set[Any]] | None:
    """Return everything about the tensors of a bucket that every backend takes for granted, or None if one is missing.

    A plan depends on these: dtypes and device decide which backend can serve a parameter, in which dtype it computes,
    and what is rounded. The layout of a gradient shows whether it is sparse. Each set is made by one loop in C, because
    this runs before every step.

    Args:
        params: the parameters.
        grads: their gradients.
        states: for each key of the state, the tensors of all parameters.
    """
    try:
        dtypes = [set(map(_dtype, column)) for column in (params, grads, *states)]
        return [set(map(_device, params)), set(map(_layout, grads)), *dtypes]
    except TypeError:  # None is no tensor
        return None


def one_memory(tensors: Sequence[torch.Tensor]) -> bool:
    """Return whether the tensors are dense and store their elements in the same order.

    The first is a parameter, the others are its gradient and states. All must be floating-point tensors, remainders of
    split weights or codes of states in blocks, on one device, and either all or none of them float64.
    """
    first = tensors[0]
    return (
        type(first) in PLAIN
        and first.numel() > 0
        and all(
            (t.dtype in FLOATS or t.dtype in INTEGERS)
            and t.device == first.device
            and t.layout is torch.strided
            and not t.is_neg()
            and not t._is_zerotensor()
            and t.shape == first.shape
            and (t.dtype == torch.float64) == (first.dtype == torch.float64)
            for t in tensors
        )
        and _one_order(tensors)
    )


def _one_order(tensors: Sequence[torch.Tensor]) -> bool:
    if all(t.is_contiguous() for t in tensors):
        return True
    first = tensors[0]
    order = sorted(range(first.dim()), key=first.stride, reverse=True)
    return first.permute(order).is_contiguous() and all(t.stride() == first.stride() for t in tensors)
