"""Numbers in the state of many parameters, such as `step`, kept in one vector so that they advance in one operation."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import is_
from typing import Any

import torch

from fallline.core.state import new_scalar, new_step


@dataclass
class SharedScalars:
    """One number of the state of many parameters.

    Attributes:
        key: its key in the states.
        states: the states that contain it.
        values: the numbers in one vector.
        views: the elements of `values`, each the entry of one state.
        written: the values that `add` or `assign` last wrote, or that were there at first.
    """

    key: str
    states: Sequence[dict[str, Any]]
    values: torch.Tensor
    views: list[torch.Tensor]
    written: torch.Tensor

    def hold(self) -> bool:
        """Return whether the states still contain the views, and no other code has changed the values."""
        current = list(map(dict.get, self.states, repeat(self.key)))
        in_place = self.views[0].data_ptr() == self.values.data_ptr()  # another plan may have moved them
        return in_place and same(current, self.views) and torch.equal(self.values, self.written)

    def add(self, amount: torch.Tensor | int) -> None:
        """Add an amount to all numbers, or one amount to each."""
        self.values += amount
        self.written = self.values.clone()

    def assign(self, values: torch.Tensor) -> None:
        """Replace all numbers."""
        self.values.copy_(values)
        self.written = self.values.clone()


def share_scalars(key: str, states: Sequence[dict[str, Any]]) -> SharedScalars | None:
    """Make an entry of all states a view of one vector; None if there are no states."""
    if not states:
        return None
    values = (new_step if key == "step" else new_scalar)([float(state[key]) for state in states])
    for state, view in zip(states, values, strict=True):
        old = state[key]
        if isinstance(old, torch.Tensor) and not old.is_inference():
            old.data = view  # keep the tensor object, because state dicts returned earlier refer to it
        else:
            state[key] = view
    return SharedScalars(key, states, values, [state[key] for state in states], values.clone())


def same(ours: Collection[Any], theirs: Collection[Any]) -> bool:
    """Return whether two collections contain the same objects in the same order."""
    return len(ours) == len(theirs) and all(map(is_, ours, theirs))
