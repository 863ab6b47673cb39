"""Critical sharpness: 2 divided by the smallest step along a direction that increases the loss."""

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from fallline.errors import ArgumentError
from fallline.formatting import format_measurement
from fallline.landscape.loss.averaging import LossFn, Weight
from fallline.landscape.loss.directions import as_direction
from fallline.landscape.loss.objective import Objective, Params
from fallline.landscape.loss.preserve import displaced
from fallline.landscape.operators.checks import check_deterministic

_FARTHEST = 2.0**30  # times the first step: a loss that has not risen by then is reported as never rising
_SMALLEST = 2.0**-30


@dataclass(frozen=True)
class CriticalSharpness:
    """2/η_c, where η_c is the smallest step along a direction that increases the loss.

    Attributes:
        value: 2/η_c, for η_c in the middle of the bracket; 0 if the loss does not rise.
        eta: η_c; infinite if the loss does not rise.
        bracket: lower and upper limit of η_c: the loss is not higher at the first step, and is higher at the second.
        evaluations: number of forward passes over the data, without the one that checks that the loss is deterministic.
    """

    value: float
    eta: float
    bracket: tuple[float, float]
    evaluations: int

    def __str__(self) -> str:
        low, high = map(format_measurement, self.bracket)
        where = (
            f"the loss rises above its initial value at a step of {low} to {high}"
            if self.value
            else "the loss does not rise"
        )
        return f"{format_measurement(self.value)}; {where}; {self.evaluations} forward passes"


def critical_sharpness(
    model: nn.Module,
    loss_fn: LossFn,
    batch: Any,
    direction: Any,
    *,
    params: Params | None = None,
    weight: Weight | None = None,
    mode: str = "eval",
    first: float = 1.0,
    tol: float = 1e-2,
) -> CriticalSharpness:
    """Return the critical sharpness, computed with forward passes only (Kalra et al. 2026, arXiv:2601.16979).

    For the direction −gradient and a quadratic loss, it is the curvature along the gradient: g'·H·g/‖g‖². For the
    update of an optimizer, a value of 2 means that the loss rises beyond a step of exactly this length; below 2, the
    optimizer is stable along the update. The step is halved until it lowers the loss, and then increased by a quarter
    until it raises the loss. A rise that begins and ends between two steps is not detected. NaN counts as higher.

    Args:
        model, loss_fn, params, weight, mode: as for `Hessian`.
        batch: one batch, or several as for `Hessian`.
        direction: the update: a dict by name, tensors in the order of the parameters, or one flat tensor, (n,).
        first: the step to try first, in units of the direction.
        tol: relative width of the bracket.

    Raises:
        ArgumentError: the direction does not match the parameters, or no step along it lowers the loss.
        LossError: as for `Hessian`.

    Example:
        >>> import torch
        >>> w = nn.Linear(1, 1, bias=False)
        >>> w.weight.data.fill_(1.0).item()
        1.0
        >>> loss = lambda model, batch: 3 * model(batch).square().mean() / 2  # curvature 3, gradient 3
        >>> found = critical_sharpness(w, loss, torch.ones(1, 1), torch.tensor([-3.0]))
        >>> round(found.value, 1)
        3.0
    """
    objective = Objective("critical_sharpness", model, loss_fn, batch, params, weight, mode)
    parts = as_direction("critical_sharpness", direction, dict(zip(objective.names, objective.params, strict=True)))
    if not all(isinstance(x, int | float) for x in (first, tol)) or not (0 < first < math.inf and 0 < tol < 1):
        raise ArgumentError(
            f"critical_sharpness: first must be finite and > 0, and tol in (0, 1), got {first=}, {tol=}; "
            "typical values are 1.0 and 1e-2"
        )
    evaluations = 0

    def loss(eta: float) -> float:
        nonlocal evaluations
        evaluations += 1
        with displaced(objective.params, parts, eta):
            return objective.mean_loss(check=eta == 0)

    here, low, high = loss(0.0), first, first
    objective.value = here
    check_deterministic(objective)
    while not loss(low) < here:
        high, low = low, low / 2
        if low < first * _SMALLEST:
            raise ArgumentError(
                "critical_sharpness: direction must lower the loss, got one that does not; pass −gradient"
            )
    if high == low:
        high = low * 1.25
        while loss(high) <= here:  # False for NaN
            low, high = high, high * 1.25
            if high > first * _FARTHEST:
                return CriticalSharpness(0.0, float("inf"), (low, float("inf")), evaluations)
    while high - low > tol * high:
        middle = (low + high) / 2
        low, high = (middle, high) if loss(middle) <= here else (low, middle)
    eta = (low + high) / 2
    return CriticalSharpness(2 / eta, eta, (low, high), evaluations)
