"""The values of a parameter group that can be scheduled, wherever an optimizer keeps them."""

from typing import Any

import torch

KEYS = ("lr", "weight_decay", "momentum")


def has(group: dict[str, Any], key: str) -> bool:
    """Return whether a group has the value; its momentum may be the first of its betas."""
    return key in group or (key == "momentum" and "betas" in group)


def read(group: dict[str, Any], key: str) -> Any:
    """Return the value in a group: a number, or a tensor of one element."""
    return group[key] if key in group else group["betas"][0]


def write(group: dict[str, Any], key: str, value: float) -> None:
    """Put a number where the value was; a tensor is filled in place."""
    if isinstance(old := read(group, key), torch.Tensor):
        old.fill_(value)
    elif key in group:
        group[key] = value
    else:
        group["betas"] = (value, *group["betas"][1:])
