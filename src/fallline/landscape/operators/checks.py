"""Checks before curvature is measured: the loss is deterministic, and its second derivative is correct."""

import math
from collections.abc import Callable
from typing import Any

import torch

from fallline.errors import GradientError, LossError
from fallline.landscape.loss.fallbacks import warn
from fallline.landscape.loss.objective import Objective
from fallline.landscape.operators.doubled import doubled
from fallline.landscape.operators.products import PRODUCTS, finite_difference

_STEPS = (1.0, 0.1, 0.01)  # relative steps of the finite difference: only long ones cross kinks, as of ReLU
# In float64, correct products differ from finite differences by at most 1e-5. A missing second derivative causes a
# difference of 0.01 to 1. In float32, kinks cause as much: ReLU networks differ by up to 1 at any step above the noise.
_AGREE = 1e-3
_ROUNDING = 100.0  # ulps of the gradient that a finite difference loses


def check_deterministic(objective: Objective) -> None:
    """Raise unless a second evaluation of the mean loss returns the value that the gradient's evaluation did.

    Raises:
        LossError: the two values differ by more than rounding.
    """
    check_same(objective.owner, objective.value, objective.mean_loss(), objective.dtype)


def check_same(where: str, one: float, other: float, dtype: torch.dtype) -> None:
    """Raise unless two evaluations of a loss at the same parameters are equal.

    Raises:
        LossError: the two values differ by more than rounding.
    """
    if not abs(other - one) <= min(1e4 * torch.finfo(dtype).eps, 0.05) * max(abs(one), 1e-8):
        raise LossError(
            f"{where}: loss must be the same at every evaluation, got {one:.6g} and {other:.6g}; "
            "draw random numbers from the global generators of torch, NumPy or Python, which are reset each time"
        )


def choose_product(objective: Objective, vector: torch.Tensor, wanted: str) -> tuple[str, float]:
    """Return the first method that works and agrees with a finite difference, and the relative difference.

    Args:
        objective: the loss.
        vector: unit vector along which the comparison is made, as of `mixed_direction`.
        wanted: "auto", or the only method to try.

    Raises:
        GradientError: no method works.
    """
    reasons: list[str] = []
    names = list(PRODUCTS) if wanted == "auto" else [wanted]
    for name in names:
        try:
            reason, disagreement = _compare(objective, name, vector)
        except (RuntimeError, TypeError) as error:  # an operation, or the user's code, does not support this method
            if name == "finite-difference":
                raise
            reason, disagreement = str(error).partition("\n")[0], math.nan
        if not reason:
            if reasons:
                warn(objective.owner, f"products are computed by {name}; rejected: {'; '.join(reasons)}")
            return name, disagreement
        reasons.append(f"{name}: {reason}")
    raise GradientError(
        f"{objective.owner}: hvp must be a method that works for this model, got {wanted}: {reasons[0]}; "
        'pass hvp="auto"'
    )


def mixed_direction(gradient: torch.Tensor) -> torch.Tensor:
    """Return a unit vector that combines the gradient with a random direction, which involves every parameter."""
    draw = torch.randn(len(gradient), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    random = (draw / draw.norm()).to(gradient.device, gradient.dtype)
    norm = float(gradient.norm())
    both = random + gradient / norm if norm > 0 else random
    length = float(both.norm())  # in one dimension the two may cancel
    vector: torch.Tensor = both / length if length > 0.1 else random
    return vector


def _compare(objective: Objective, name: str, vector: torch.Tensor) -> tuple[str, float]:
    """Return the problem of one method on the first batch, or "", and the smallest relative difference."""

    def measure(product: Any, **options: float) -> torch.Tensor:
        with objective.measuring():
            _, batch, _ = next(objective.batches())
            return product(objective, batch, objective.split(vector), **options)  # type: ignore[no-any-return]

    objective.recovery.attempt(lambda: measure(PRODUCTS[name]))
    if name == "finite-difference":
        return "", 0.0
    try:
        with doubled(objective):
            return _agreement(objective, measure, name)
    except (RuntimeError, TypeError, LossError):  # not computable in float64: compare in the model's own precision
        wrong, least = _agreement(objective, measure, name)
        if wrong:
            warn(objective.owner, f"{wrong}, in {objective.dtype}, because of kinks or a missing second derivative")
        return "", least


def _agreement(objective: Objective, measure: Callable[..., torch.Tensor], name: str) -> tuple[str, float]:
    found = measure(PRODUCTS[name])
    size = measure(lambda o, batch, parts: o.flatten(o.gradients(o.loss(batch)))).norm().item()
    least, worst = math.inf, ""
    for shrink in _STEPS:
        other = measure(finite_difference, shrink=shrink)
        noise = _ROUNDING * objective.eps ** (2 / 3) / shrink * size
        difference = (found - other).norm().item()
        relative = difference / max(found.norm().item(), other.norm().item(), 1e-300)
        if not relative >= least:
            least, worst = relative, _farthest(objective, found - other)
        if relative <= _AGREE or difference <= noise:
            return "", relative
    share = f"{least:.0%}" if least >= 0.01 else f"{100 * least:.1g}%"
    return f"the product differs from a finite difference by {share}, with the largest error in {worst}", least


def _farthest(objective: Objective, difference: torch.Tensor) -> str:
    norms = [part.norm().item() for part in objective.split(difference)]
    return objective.names[max(range(len(norms)), key=norms.__getitem__)]
