"""The values of a parameter group that can be scheduled, wherever an optimizer keeps them."""

from collections.abc import Sequence
from typing import Any

from fallline.scalars import refill

KEYS = ("lr", "weight_decay", "momentum")


def has(group: dict[str, Any], key: str) -> bool:
    """Return whether a group has the value; its momentum may be the first of its betas."""
    return key in group or (key == "momentum" and "betas" in group)


def read(group: dict[str, Any], key: str) -> Any:
    """Return the value in a group: a number, or a tensor of one element."""
    return group[key] if key in group else group["betas"][0]


def write(groups: Sequence[dict[str, Any]], key: str, values: Sequence[float]) -> None:
    """Put a number for each group where its value was; a tensor is filled in place."""
    for group, value in zip(groups, refill([read(group, key) for group in groups], values), strict=True):
        if key in group:
            group[key] = value
        else:
            group["betas"] = (value, *group["betas"][1:])
