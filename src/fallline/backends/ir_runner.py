"""Shared code of the backends that run a traced update: scalars, norms and the order of the passes."""

import functools
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fallline.backends.bucket import Bucket
from fallline.backends.ir import Pass, Trace, trace
from fallline.rules import ops
from fallline.rules.rule import ALL, TENSOR

Numbers = Sequence[Mapping[str, float]]


class TracedBucket(Bucket):
    """Base class that runs the passes of `trace(update)`; subclasses implement how one pass runs over all tensors.

    This class computes the expressions of hyperparameters and norms, once per step and in double precision.
    """

    _sums: np.ndarray  # of the last pass over all parameters, one row for each tensor

    @functools.cached_property
    def traced(self) -> Trace:
        """The trace of the update."""
        return trace(self.update)

    @functools.cached_property
    def scalar_rows(self) -> list[int]:
        """The row of each tensor in the `scalars` argument of passes."""
        return list(range(len(self.rows))) if self.traced.per_tensor else self.rows

    @abstractmethod
    def sums(self, sweep: Pass, grads: Sequence[torch.Tensor], scalars: np.ndarray) -> np.ndarray:
        """Run a pass that sums squares.

        Args:
            sweep: the pass.
            grads: the gradients of the parameters.
            scalars: the values of `sweep.scalars`, float64[rows, scalars]; see `scalar_rows`.

        Returns:
            The sum of squares of each output over each tensor, float64[tensors, outputs].
        """

    @abstractmethod
    def write(self, sweep: Pass, grads: Sequence[torch.Tensor], scalars: np.ndarray, numbers: Numbers) -> None:
        """Run the pass that writes parameters and states; see `sums` and `step` for the arguments."""

    def sum_of_squares(self, grads: Sequence[torch.Tensor], numbers: Numbers, norms: Sequence[float]) -> float:
        """Run the pass that sums squares for the next norm over all parameters, unless the pass before computed it."""
        places = [(sweep, k) for sweep in self.traced.passes if sweep.scope == ALL for k in range(len(sweep.norms))]
        sweep, column = places[len(norms)]
        if column == 0:
            scalars = self._scalars(sweep, numbers, dict(zip(self.traced.norms, norms, strict=False)))
            self._sums = self.sums(sweep, grads, scalars)
        return math.fsum(self._sums[:, column].tolist())

    def step(self, grads: Sequence[torch.Tensor], numbers: Numbers, norms: Sequence[float]) -> None:
        """Run the passes that compute norms of single tensors, then the pass that writes the results."""
        known: dict[str, Any] = dict(zip(self.traced.norms, norms, strict=False))
        *before, last = self.traced.passes
        for sweep in before:
            if sweep.scope == TENSOR:
                sums = self.sums(sweep, grads, self._scalars(sweep, numbers, known))
                known |= zip(sweep.norms, np.sqrt(sums).T, strict=True)
        self.write(last, grads, self._scalars(last, numbers, known), numbers)

    def _scalars(self, sweep: Pass, numbers: Numbers, norms: Mapping[str, Any]) -> np.ndarray:
        """Return the scalars that the loop reads: one row for each of `numbers`, or for each tensor if norms differ."""
        names = self.traced.arguments
        function = _scalar_function(self.traced, sweep)
        if not self.traced.per_tensor:
            table = np.full((len(numbers), len(sweep.scalars)), np.nan)
            for row in set(self.rows):  # other rows may be of groups with another rule
                table[row] = function(**{name: numbers[row][name] for name in names}, **norms)
            return table
        arrays = {name: np.array([numbers[row][name] for row in self.rows], dtype=np.float64) for name in names}
        with np.errstate(all="ignore"):
            columns = function(**arrays, **norms)
        table = np.empty((len(self.rows), len(columns)))
        for k, column in enumerate(columns):
            table[:, k] = column
        return table


@functools.cache
def _scalar_function(traced: Trace, sweep: Pass) -> Callable[..., tuple[Any, ...]]:
    """Return the function that computes the scalars of a pass from hyperparameters and norms, given by keyword."""
    arguments = ", ".join([*traced.arguments, *(f"{norm}=None" for norm in traced.norms)])
    code = f"lambda *, {arguments}: ({''.join(scalar + ', ' for scalar in sweep.scalars)})"
    function: Callable[..., tuple[Any, ...]] = eval(code, _ARRAYS if traced.per_tensor else _NUMBERS)
    return function


def _divide(x: float, y: float) -> float:
    """Divide as in IEEE 754: division by zero gives Inf or NaN, not an exception."""
    if y == 0:
        return math.nan if x == 0 or x != x else math.copysign(math.inf, x) * math.copysign(1.0, y)
    return x / y


# The functions in scalar expressions: for numbers, and for arrays with one number per tensor.
_NUMBERS: dict[str, Any] = {
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "divide": _divide,
    "maximum": ops.maximum,
    "where": ops.where,
    "sign": ops.sign,
    "inf": math.inf,
}
_ARRAYS: dict[str, Any] = {
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "divide": np.divide,
    "maximum": np.maximum,
    "where": np.where,
    "sign": np.sign,
    "inf": math.inf,
}
