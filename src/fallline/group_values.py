"""Read and write values of parameter groups, which are numbers or one-element tensors."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch

from fallline.arguments import real_number

Scalar: TypeAlias = float | torch.Tensor

KEYS = ("lr", "weight_decay", "momentum")  # the values that can be scheduled


def number(value: Scalar) -> float:
    """Return a scalar as a number; see `fallline.arguments.real_number`."""
    return real_number(value)


def plain(value: Any) -> Any:
    """Return a value as it is stored in a group: NumPy scalars, and arrays of one element, as Python numbers.

    Tensors are kept, because users change them in place. A state dict must contain no NumPy values, because
    `torch.load(weights_only=True)` refuses them.
    """
    alone = hasattr(value, "item") and not isinstance(value, torch.Tensor) and getattr(value, "size", 0) == 1
    return value.item() if alone else value


def refill(kept: Sequence[Scalar], values: Sequence[Scalar]) -> list[Scalar]:
    """Return the values to store in place of `kept`, the old value of each group; an old tensor is filled and reused.

    Schedulers and compiled steps hold references to these tensors, so they must not be replaced. Groups can share one
    tensor (the one passed to the constructor). Then the first group and the groups with the same new number keep it,
    and each other group gets a new tensor.

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
            with torch.inference_mode(False):  # a rate made in inference mode could not be filled outside of it
                found.append(old if filled[id(old)] == number(value) else torch.full_like(old, number(value)))
    return found


def has(group: dict[str, Any], key: str) -> bool:
    """Return whether a group has the value; `momentum` can also be the first of its betas."""
    return key in group or (key == "momentum" and "betas" in group)


def read(group: dict[str, Any], key: str) -> Any:
    """Return the value in a group: a number or a one-element tensor."""
    return group[key] if key in group else group["betas"][0]


def write(groups: Sequence[dict[str, Any]], key: str, values: Sequence[float]) -> None:
    """Write one number to each group; a value that is a tensor is filled in place."""
    for group, value in zip(groups, refill([read(group, key) for group in groups], values), strict=True):
        if key in group:
            group[key] = value
        else:
            group["betas"] = (value, *group["betas"][1:])
