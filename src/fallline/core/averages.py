"""The averages of the parameters that an optimizer keeps, and their use for the duration of a block."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fallline.errors import ArgumentError, StateError
from fallline.rules.rule import EMA

Values = Iterable[tuple[torch.Tensor, torch.Tensor]]


class AveragedWeights:
    """The methods of an optimizer that replace the parameters by their averages; a base class of `Optimizer`."""

    param_groups: list[dict[str, Any]]
    state: Any
    _averaged: bool = False  # inside of a block of `averaged`

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Replace the parameters by their averages for the duration of the block.

        Raises:
            ArgumentError: there are no averages: no group has an `ema_decay`, or no step has been taken.
        """
        averages = list(self._ema_weights())
        if not averages:
            raise ArgumentError(
                f"{type(self).__name__}: ema_decay must have been given and a step taken, got no averages; "
                "pass ema_decay=0.999 to the constructor"
            )
        with replaced(averages):
            yield

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Replace the parameters by the weights to evaluate for the duration of a block, and restore them bit-for-bit.

        These are the averages of groups with `ema_decay`, and the averages of a schedule-free optimizer. Parameters
        without an average, such as those of other optimizers or before the first step, are not changed.

        Raises:
            StateError: in the block, the optimizer steps, is saved or loads a state dict.

        Example:
            >>> import fallline as fl
            >>> w = torch.nn.Parameter(torch.tensor([1.0]))
            >>> opt = fl.SGD([w], lr=0.5, ema_decay=0.5)
            >>> w.grad = torch.tensor([1.0])
            >>> opt.step()
            >>> with opt.averaged():
            ...     w.item()
            0.75
            >>> w.item()
            0.5
        """
        if self._averaged:
            yield
            return
        with replaced(self._average_weights()):
            self._averaged = True
            try:
                yield
            finally:
                self._averaged = False

    def _average_weights(self) -> Values:
        """Return each parameter that has an average, with the average to evaluate."""
        return self._ema_weights()

    def _ema_weights(self) -> Values:
        for group in self.param_groups:
            for param in group["params"]:
                average = self.state[param].get(EMA) if param in self.state else None
                if average is not None:
                    yield param, average

    def _check_not_averaged(self, what: str) -> None:
        """Raise StateError inside of a block of `averaged`."""
        if self._averaged:
            raise StateError(
                f"{type(self).__name__}: {what} must be called outside of averaged(), because the parameters in the "
                "block are not those that are trained, got a call in the block; end the block first"
            )


@contextmanager
def replaced(values: Values) -> Iterator[None]:
    """Write a value to each of several parameters, and restore them bit-for-bit at the end of the block."""
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        with torch.no_grad():
            for param, value in values:
                kept.append((param, param.detach().clone()))
                param.copy_(value)
        yield
    finally:
        with torch.no_grad():
            for param, value in reversed(kept):  # a parameter can be listed twice; its first copy is the original
                param.copy_(value)
