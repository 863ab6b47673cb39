"""Numbers of parameter groups, which may be kept in tensors of one element."""

from collections.abc import Sequence
from typing import TypeAlias

import torch

Scalar: TypeAlias = float | torch.Tensor


def number(value: Scalar) -> float:
    """Return the number in a scalar."""
    return value.item() if isinstance(value, torch.Tensor) else value


def refill(kept: Sequence[Scalar], values: Sequence[Scalar]) -> list[Scalar]:
    """Return values in place of those that groups have kept so far; a tensor among these is filled and stays.

    For schedulers and compiled steps hold on to that very tensor. One that groups share, as they do the constructor's,
    stays with the first of them and those that get the same number; others get one of their own.

    Example:
        >>> rate = torch.tensor(0.5)
        >>> refill([rate, rate, 0.5], [0.25, 0.125, 0.125])
        [tensor(0.2500), tensor(0.1250), 0.125]
    """
    filled: dict[int, float] = {}
    found: list[Scalar] = []
    for old, value in zip(kept, values, strict=True):
        if not isinstance(old, torch.Tensor):
            found.append(value)
        elif id(old) not in filled:
            filled[id(old)] = number(value)
            found.append(old.fill_(filled[id(old)]))
        else:
            found.append(old if filled[id(old)] == number(value) else torch.full_like(old, number(value)))
    return found
