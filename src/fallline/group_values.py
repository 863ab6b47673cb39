"""Read and write values of parameter groups, which are numbers or one-element tensors."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch.optim import Optimizer

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


class ForeignFactors:
    """The changes that other code makes to scheduled values between two writes, kept as one factor per group.

    PyTorch's chainable schedulers multiply the present value in the same way. While nothing else changes a value, its
    factor stays exactly 1.

    Attributes:
        factors: for each value, one factor per group, in the order of the groups; without later ones that are 1.

    Example:
        >>> groups, changes = [{"lr": 1.0}], ForeignFactors()
        >>> changes.write(groups, {"lr": [1.0]})
        >>> groups[0]["lr"] *= 0.5  # by another scheduler
        >>> changes.find(groups)
        [('lr', 0)]
        >>> changes.keep(groups, {"lr": [1.0]}, [("lr", 0)])
        >>> changes.scale({"lr": [0.25]})
        {'lr': [0.125]}
    """

    # Momentum is left out: it must stay below 1, and PyTorch's schedulers set it as it is.
    KEYS = ("lr", "weight_decay")

    def __init__(self) -> None:
        self.factors: dict[str, list[float]] = {}
        self._written: dict[str, list[float]] = {}

    def clear(self) -> None:
        """Forget the factors and what was written: changes before the next write are not found."""
        self.factors, self._written = {}, {}

    def on_load(self, optimizer: Optimizer) -> None:
        """Take the values that a state dict has brought into an optimizer for written ones; a hook of the optimizer."""
        self._accept(optimizer.param_groups, [*self._written])

    def write(self, groups: Sequence[dict[str, Any]], values: Mapping[str, Sequence[float]]) -> None:
        """Write the values of every group, and remember what was written, as the dtype of a tensor rounds it."""
        for key, column in values.items():
            write(groups, key, column)
        self._accept(groups, [key for key in values if key in self.KEYS])

    def _accept(self, groups: Sequence[dict[str, Any]], keys: Sequence[str]) -> None:
        self._written |= {key: [number(group[key]) for group in groups] for key in keys}

    def find(self, groups: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
        """Return the values, with the numbers of their groups, that are no longer as they were written."""
        return [
            (key, i)
            for key, column in self._written.items()
            for i, (group, written) in enumerate(zip(groups, column, strict=False))  # groups can have been added
            if number(group[key]) != written
        ]

    def keep(
        self,
        groups: Sequence[dict[str, Any]],
        scheduled: Mapping[str, Sequence[float]],
        found: Sequence[tuple[str, int]],
    ) -> None:
        """Compute the factors of the changes that were found; `scheduled` are the present values without factors."""
        for key, i in found:
            column = self.factors.setdefault(key, [])
            column.extend([1.0] * (i + 1 - len(column)))
            if scheduled[key][i]:  # a change of a value that is scheduled to be 0 has no factor
                column[i] = number(groups[i][key]) / scheduled[key][i]

    def scale(self, scheduled: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
        """Return scheduled values multiplied by the factors."""
        found = {key: [*column] for key, column in scheduled.items()}
        for key, factors in self.factors.items():
            for i, factor in enumerate(factors[: len(found[key])]):
                found[key][i] *= factor
        return found
