"""The values of a parameter group that can be scheduled, wherever an optimizer keeps them."""

from collections.abc import Sequence
from typing import Any

import torch

KEYS = ("lr", "weight_decay", "momentum")


def has(group: dict[str, Any], key: str) -> bool:
    """Return whether a group has the value; its momentum may be the first of its betas."""
    return key in group or (key == "momentum" and "betas" in group)


def read(group: dict[str, Any], key: str) -> Any:
    """Return the value in a group: a number, or a tensor of one element."""
    return group[key] if key in group else group["betas"][0]


def write(groups: Sequence[dict[str, Any]], key: str, values: Sequence[float]) -> None:
    """Put a number for each group where its value was.

    A tensor is filled in place. One that groups share, as they do the constructor's, is replaced in those that get
    another number than the first of them.
    """
    filled: dict[int, float] = {}
    for group, value in zip(groups, values, strict=True):
        new: Any = value
        if isinstance(old := read(group, key), torch.Tensor):
            new = old.fill_(value) if filled.setdefault(id(old), value) == value else torch.full_like(old, value)
        if key in group:
            group[key] = new
        else:
            group["betas"] = (new, *group["betas"][1:])
