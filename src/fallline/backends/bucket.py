"""Parameters that one backend updates together."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fallline.backends.layout import dtype_name
from fallline.backends.rounding import keys, rounded_columns
from fallline.rules.update import Update


@dataclass
class Bucket(ABC):
    """Tensors that share an update and a backend.

    Attributes:
        update: what happens to each of them.
        params: the parameters, all with a gradient.
        states: the optimizer's state dict of each.
        rows: for each, the row of the numbers (learning rate, age …) that hold for it.
        places: for each, which of the optimizer's parameters it is.
        origins: for each, the number of its first element in the whole of which it is a part, or that of each element.
    """

    update: Update
    params: list[torch.Tensor] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    origins: list[int | torch.Tensor] = field(default_factory=list)

    def add(
        self, param: torch.Tensor, state: dict[str, Any], row: int, place: int, origin: int | torch.Tensor = 0
    ) -> None:
        """Append one parameter."""
        self.params.append(param)
        self.states.append(state)
        self.rows.append(row)
        self.places.append(place)
        self.origins.append(origin)

    def rounded(self, index: int = 0) -> list[str]:
        """Return which tensors (param and state keys) of a parameter are rounded stochastically."""
        state = self.states[index]
        tensors = {"param": self.params[index], **{key: state[key] for key in self.update.state}}
        return rounded_columns(self.update, {name: dtype_name(tensor) for name, tensor in tensors.items()})

    def rounding_keys(self, numbers: Sequence[Mapping[str, float]]) -> np.ndarray:
        """Return the key of each parameter for the random numbers of this step, int64."""
        mine = [numbers[row] for row in self.rows]
        return keys([row["rounding_seed"] for row in mine], self.places, [row["step"] for row in mine])

    @abstractmethod
    def fits(self, grads: Sequence[torch.Tensor]) -> bool:
        """Return whether the bucket, as it was built, can still serve these gradients."""

    @abstractmethod
    def sum_of_squares(
        self, grads: Sequence[torch.Tensor], numbers: Sequence[Mapping[str, float]], norms: Sequence[float]
    ) -> float:
        """Return this bucket's part of the next norm over all parameters, squared.

        Args:
            grads: of the parameters, in their order.
            numbers: `numbers[row]` are the scalars of the parameters of that row.
            norms: the norms over all parameters that are known already.
        """

    @abstractmethod
    def step(
        self, grads: Sequence[torch.Tensor], numbers: Sequence[Mapping[str, float]], norms: Sequence[float]
    ) -> None:
        """Update every parameter and state in place, all norms over all parameters being known."""

    def put_back(self, key: str) -> None:
        """Give every parameter the value of its state `key`."""
        torch._foreach_copy_(self.params, [state[key] for state in self.states])


def all_present(bucket: Bucket, grads: Sequence[torch.Tensor]) -> bool:
    """Return whether every parameter has a dense gradient and its state."""
    dense = all(g is not None and g.layout is torch.strided for g in grads)
    return dense and all(state.get(key) is not None for state in bucket.states for key in bucket.update.state)
