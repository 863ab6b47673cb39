"""Buckets: sets of parameters that one backend updates together."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
import torch

from fallline.backends.layout import dtype_name, kinds
from fallline.backends.rounding import keys, rounded_columns
from fallline.rules.update import Update


@dataclass
class Bucket(ABC):
    """Parameters that share an update and a backend.

    Attributes:
        update: the update of all parameters.
        params: the parameters, all with a gradient.
        states: the optimizer state of each parameter.
        rows: the index of each parameter's row of numbers (learning rate, age …).
        places: the index of each parameter in the optimizer.
        origins: for a shard, the position of its first element in the whole tensor, or of each element; otherwise 0.
    """

    update: Update
    params: list[torch.Tensor] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    origins: list[int | torch.Tensor] = field(default_factory=list)
    _kinds: list[set[Any]] | None = None

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
        """Return the names of the tensors of a parameter (param and state keys) that are rounded stochastically."""
        state = self.states[index]
        states = {key: state[stored] for key, stored in zip(self.update.state, self.update.stored, strict=True)}
        tensors = {"param": self.params[index], **states}
        return rounded_columns(self.update, {name: dtype_name(tensor) for name, tensor in tensors.items()})

    def rounding_keys(self, numbers: Sequence[Mapping[str, float]]) -> np.ndarray:
        """Return the key of each parameter for the random numbers of this step, int64."""
        own = [numbers[row] for row in self.rows]
        return keys([row["rounding_seed"] for row in own], self.places, [row["step"] for row in own])

    def fits(self, grads: Sequence[torch.Tensor]) -> bool:
        """Return whether the bucket is still valid for these gradients and for its parameters and states.

        The first call, which follows the construction, records what the bucket depends on; see `kinds`.
        """
        try:
            columns = [list(map(itemgetter(key), self.states)) for key in self.update.tensors]
        except KeyError:
            return False
        found = kinds(self.params, grads, columns)
        if self._kinds is None:
            self._kinds = found
        return found is not None and found == self._kinds

    @abstractmethod
    def sum_of_squares(
        self, grads: Sequence[torch.Tensor], numbers: Sequence[Mapping[str, float]], norms: Sequence[float]
    ) -> float:
        """Return the contribution of this bucket to the next norm over all parameters, as a sum of squares.

        Args:
            grads: the gradients, in the order of the parameters.
            numbers: `numbers[row]` contains the numbers of all parameters with that row.
            norms: the norms over all parameters that have been computed already.
        """

    @abstractmethod
    def step(
        self, grads: Sequence[torch.Tensor], numbers: Sequence[Mapping[str, float]], norms: Sequence[float]
    ) -> None:
        """Update every parameter and state in place; `norms` contains all norms over all parameters."""

    def put_back(self, key: str) -> None:
        """Copy the state `key` of every parameter to the parameter."""
        torch._foreach_copy_(self.params, [state[key] for state in self.states])
