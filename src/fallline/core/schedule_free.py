"""The base class of the schedule-free optimizers, which switch the parameters between two points.

Of the three points of Defazio et al. 2024 (arXiv:2405.15682), the parameter is y in training and x in evaluation. The
state holds z, so the third point follows from the other two: y = (1 − β)·z + β·x.
"""

from collections.abc import Iterator
from typing import Any

import torch

from fallline.core.averages import Values
from fallline.core.optimizer import Optimizer
from fallline.errors import ArgumentError, StateError
from fallline.group_values import number, read
from fallline.rules.rule import MASTER, REMAINDER_BITS


class ScheduleFree(Optimizer):
    """Base class of the schedule-free optimizers, which switch the parameters between y (train) and x (eval).

    `train()` and `eval()` follow the authors' package: a step needs train mode, and going to eval and back rounds the
    parameters. `averaged()` restores them bit-for-bit. The mode is saved as `train_mode` in the groups of state dicts.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group in the present mode; see `Optimizer.add_param_group`."""
        super().add_param_group(param_group)
        self.param_groups[-1].setdefault("train_mode", self.param_groups[0].get("train_mode", True))

    def _check_group(self, group: dict[str, Any]) -> None:
        for option in ("cautious", "cautious_weight_decay"):
            if group[option]:
                raise ArgumentError(
                    f"{type(self).__name__}: {option} must be False, because z would not move with the parameter, "
                    f"got {option}={group[option]!r}; leave it out"
                )
        if group["master_weights"] in REMAINDER_BITS:
            raise ArgumentError(
                f"{type(self).__name__}: master_weights must be True or False, because eval() and train() replace the "
                f"parameters, got master_weights={group['master_weights']!r}; pass True"
            )
        super()._check_group(group)

    def train(self) -> None:
        """Write the training weights y to the parameters, if they are the averages x."""
        for group in self.param_groups:
            if not group["train_mode"]:
                self._write(_training_weights(group, self.state))
                group["train_mode"] = True

    def eval(self) -> None:
        """Write the averages x to the parameters, if they are the training weights y."""
        for group in self.param_groups:
            if group["train_mode"]:
                self._write(_averages(group, self.state))
                group["train_mode"] = False

    def _write(self, values: Values) -> None:
        self._check_not_averaged("train() or eval()")
        with torch.no_grad():
            for param, value in values:
                param.copy_(value)

    def _average_weights(self) -> Values:
        """Yield the averages of `ema_decay` where there are any, and otherwise x, unless the parameters are x."""
        yield from self._ema_weights()
        for group in self.param_groups:
            if group["train_mode"] and group["ema_decay"] is None:
                yield from _averages(group, self.state)

    def _update(self) -> None:
        if not all(group["train_mode"] for group in self.param_groups):
            raise StateError(
                f"{type(self).__name__}: step() must be called in train mode, in which the parameters are where "
                "gradients are computed, got eval mode; call train() of the optimizer before the forward pass"
            )
        super()._update()


def _points(group: dict[str, Any], state: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield each parameter of a group that has been updated, with its value in the precision of z, and z."""
    for param in dict.fromkeys(group["params"]):
        own = state.get(param, {})
        if own.get("z") is not None:
            value = param if own.get(MASTER) is None else own[MASTER]
            yield param, value.detach().to(own["z"].dtype), own["z"]


def _averages(group: dict[str, Any], state: Any) -> Values:
    """Yield each parameter, which is y, with x = y + (1 − 1/β)·(z − y)."""
    momentum = number(read(group, "momentum"))
    for param, y, z in _points(group, state):
        yield param, y + (1 - 1 / momentum) * (z - y)


def _training_weights(group: dict[str, Any], state: Any) -> Values:
    """Yield each parameter, which is x, with y = x + (1 − β)·(z − x); master weights stay y all the time."""
    momentum = number(read(group, "momentum"))
    for param, x, z in _points(group, state):
        yield param, x + (1 - momentum) * (z - x) if state[param].get(MASTER) is None else x
