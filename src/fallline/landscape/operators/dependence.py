"""Checks that the gradient is that of the loss: a part of the loss without a graph contributes nothing to curvature."""

import math

import torch

from fallline.errors import LossError
from fallline.landscape.loss.fallbacks import warn
from fallline.landscape.loss.objective import Objective
from fallline.landscape.loss.preserve import displaced
from fallline.landscape.operators.doubled import doubled

_STEP = 1e-3  # of a parameter without a gradient, relative to its size
_STEPS = (1.0, 0.1, 0.01)  # relative steps of the difference of the loss
_AGREE = {torch.float64: 1e-4}  # in float64, correct slopes differ by at most 1e-6, also with kinks
_ROUNDING = 100.0  # ulps of the loss that a difference of losses loses
_CAUSES = ".detach(), torch.no_grad() or torch.utils.checkpoint with use_reentrant=True"


def check_gradient(objective: Objective, vector: torch.Tensor) -> None:
    """Raise or warn if the loss changes with a parameter in a way that its gradient does not contain.

    Args:
        objective: the loss, after `gradient()`.
        vector: a unit vector that involves every parameter.

    Raises:
        LossError: the loss changes with a parameter for which autograd returned no gradient.
    """
    _check_reached(objective)
    try:
        with doubled(objective):
            found = _slopes(objective, vector)
    except (RuntimeError, TypeError, LossError):  # not computable in float64
        found = _slopes(objective, vector)
    if found is not None:
        slope, change = found
        warn(
            objective.owner,
            f"the gradient is not that of the loss, which changes by {change:.3g} per unit along a direction where the "
            f"gradient says {slope:.3g}; the curvature is that of the gradient. Causes are {_CAUSES}, and "
            "straight-through estimators",
        )


def _check_reached(objective: Objective) -> None:
    """Raise if the loss depends on a parameter without a gradient. One that the loss does not use is legitimate."""
    pairs = zip(objective.params, objective.names, strict=True)
    missing = [(p, name) for p, name in pairs if name not in objective.reached]
    if not missing or not _changes(objective, [p for p, _ in missing]):
        return
    guilty = [name for p, name in missing if _changes(objective, [p])] or [name for _, name in missing]
    more = f" and {len(guilty) - 1} more" if len(guilty) > 1 else ""
    raise LossError(
        f"{objective.owner}: every parameter that affects the loss must receive a gradient, got none for "
        f"{guilty[0]}{more}; compute the loss without {_CAUSES}, or leave the parameter out of params"
    )


def _changes(objective: Objective, params: list[torch.nn.Parameter]) -> bool:
    """Return whether the loss changes, by more than its rounding, when the parameters do."""
    generator = torch.Generator().manual_seed(0)
    steps = []
    for p in params:
        draw = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.device)
        steps.append(draw * max(float(p.detach().double().square().mean().sqrt()), 0.1) if p.numel() else draw)
    here, again = objective.mean_loss(), objective.mean_loss()
    with displaced(params, steps, _STEP):
        there = objective.mean_loss(check=False)
    rounding = 10 * abs(here - again) + 4 * torch.finfo(objective.dtype).eps * abs(here)
    return not abs(there - here) <= rounding  # also True for NaN


def _slopes(objective: Objective, vector: torch.Tensor) -> tuple[float, float] | None:
    """Return the slope of the loss along a direction by its gradient and by a difference, or None if they agree."""

    def loss(distance: float) -> float:
        with objective.measuring(), torch.no_grad(), displaced(objective.params, parts, distance):
            _, batch, _ = next(objective.batches())
            return float(objective.loss(batch))

    parts = objective.split(vector)
    with objective.measuring():
        _, batch, _ = next(objective.batches())
        gradient = objective.flatten(objective.gradients(objective.loss(batch)))
    slope = float(gradient.double() @ vector.double())
    eps = objective.eps
    size = float(torch.linalg.vector_norm(objective.flatten(objective.params).double()))
    jitter = abs(loss(0.0) - loss(0.0))
    least, change = math.inf, slope
    for shrink in _STEPS:
        h = shrink * eps ** (1 / 3) * max(1.0, size)
        low, high = loss(-h), loss(h)
        found = (high - low) / (2 * h)
        error, noise = abs(found - slope), (_ROUNDING * eps * max(abs(low), abs(high)) + 10 * jitter) / h
        relative = error / max(abs(found), abs(slope), 1e-300)
        if relative <= _AGREE.get(objective.dtype, 1e-3) or error <= noise:
            return None
        if relative < least:
            least, change = relative, found
    return slope, change
