"""Classification of the current point (minimum, saddle, flat or undetermined) by its curvature."""

import math
from dataclasses import dataclass

import torch

from fallline.errors import ArgumentError
from fallline.formatting import format_measurement
from fallline.landscape.operators.base import Operator, Symmetric, as_operator
from fallline.landscape.operators.hessian import Measured
from fallline.landscape.progress import Progress
from fallline.landscape.spectrum.eigsh import Eigen, eigsh

KINDS = ("minimum", "saddle", "flat", "undetermined")
_ROUNDING = 30.0  # ulps of the largest curvature: smaller curvature counts as zero
_ENDS = 3  # eigenvalues computed at each end


@dataclass(frozen=True)
class Point:
    """The curvature at a point, and its classification.

    Attributes:
        kind: "minimum" (all curvature is positive), "saddle" (some is negative), "flat" (all is zero) or "undetermined"
            (the smallest eigenvalue cannot be distinguished from 0, for example because of dead units).
        smallest, largest: the eigenvalues λmin and λmax.
        smallest_bound, largest_bound: upper bounds of the distance to the nearest eigenvalue.
        gradient: norm of the gradient; None if it is not known.
        stationary: whether ‖g‖²/(2·λmax), the change of the loss in a Newton-like step, is at most a thousandth of the
            loss; None if it is not known. If False, the point is not a critical point, and `kind` describes only the
            curvature.
        condition: λmax over the smallest eigenvalue found whose bound excludes 0; None at a saddle, or if there is no
            such eigenvalue.
        tolerance: curvature of at most this magnitude counts as zero.
        eigen: all eigenvalues that were computed.
    """

    kind: str
    smallest: float
    smallest_bound: float
    largest: float
    largest_bound: float
    gradient: float | None
    stationary: bool | None
    condition: float | None
    tolerance: float
    eigen: Eigen

    @property
    def sentence(self) -> str:
        """The classification as a sentence."""
        smallest = format_measurement(self.smallest, self.smallest_bound)
        ends = f"λmin = {smallest}, λmax = {format_measurement(self.largest, self.largest_bound)}"
        known = "" if self.gradient is None else f"; ‖g‖ = {self.gradient:.2g}"
        if self.stationary is not None:
            known += ", stationary" if self.stationary else ", not stationary"
        if self.kind == "saddle":
            ratio = "undefined at a saddle"
        else:
            ratio = "not determined" if self.condition is None else f"{self.condition:.2g}"
        return f"{self.kind}: {ends}{known}; condition number {ratio}"

    def __str__(self) -> str:
        return self.sentence


def classify_point(
    H: Symmetric,
    grad: torch.Tensor | None = None,
    *,
    tolerance: float | None = None,
    tol: float = 1e-3,
    seed: int = 0,
    max_matvecs: int | None = None,
    progress: Progress | None = None,
) -> Point:
    """Classify a point as minimum, saddle, flat or undetermined by its curvature.

    A saddle is certain if there is one direction of negative curvature: λmin plus its bound is below 0. The absence of
    such a direction is only as certain as that `eigsh` has not missed one, so "minimum" requires that it `converged`.

    Args:
        H: a Hessian, an operator, or a symmetric matrix as a tensor.
        grad: the gradient, of shape (n,); by default that of the Hessian's loss.
        tolerance: curvature of at most this magnitude counts as zero; by default the larger of the rounding error of
            the products and of the curvature that changes the loss by a fraction √eps over a distance of the norm of
            the parameters (at least 1).
        tol, seed, max_matvecs, progress: as for `eigsh`.

    Raises:
        ArgumentError: an argument is invalid.

    Example:
        >>> print(classify_point(torch.diag(torch.tensor([2.0, -1.0, 0.5]))))
        saddle: λmin = −1.0000 ± 0.0001, λmax = 2.0000 ± 0.0001; condition number undefined at a saddle
    """
    operator = as_operator("classify_point", H)
    if tolerance is not None and not (isinstance(tolerance, int | float) and tolerance >= 0):
        raise ArgumentError(f"classify_point: tolerance must be >= 0, got {tolerance=!r}; leave it out")
    n = operator.shape[0]
    if grad is not None and (not isinstance(grad, torch.Tensor) or grad.shape != (n,)):
        got = tuple(grad.shape) if isinstance(grad, torch.Tensor) else type(grad).__name__
        raise ArgumentError(f"classify_point: grad must have shape ({n},), got {got}; pass H.flatten(grads)")
    k = min(2 * _ENDS, n)
    norm = None if grad is None else float(torch.linalg.vector_norm(grad.double()))
    if norm is None and isinstance(operator, Measured):
        norm = float(torch.linalg.vector_norm(operator.gradient().double()))
    found = eigsh(operator, k, "BE", tol, seed, max_matvecs=max_matvecs, progress=progress)
    values, bounds = found.values.tolist(), found.bound.tolist()
    scale = max(map(abs, values))
    least = _least(operator, scale) if tolerance is None else tolerance
    kind = _kind(values, bounds, least, found.converged)
    excluded = [value for value, bound in zip(values, bounds, strict=True) if value - bound > least]
    condition = values[-1] / min(excluded) if kind in ("minimum", "undetermined") and excluded[:-1] else None
    return Point(
        kind,
        values[0],
        bounds[0],
        values[-1],
        bounds[-1],
        norm,
        _stationary(operator, norm, values[-1]),
        condition,
        least,
        found,
    )


def _kind(values: list[float], bounds: list[float], least: float, converged: bool) -> str:
    if values[0] + bounds[0] < -least:
        return "saddle"
    if not converged:
        return "undetermined"
    if max(abs(value) + bound for value, bound in zip(values, bounds, strict=True)) <= least or not any(values):
        return "flat"
    return "minimum" if values[0] - bounds[0] > least else "undetermined"


def _least(H: Operator, scale: float) -> float:
    """Return the default tolerance: curvature of at most this magnitude counts as zero."""
    rounding = _ROUNDING * H.eps * scale
    if not isinstance(H, Measured):
        return rounding
    size = sum(float(p.detach().double().square().sum()) for p in H.objective.params)
    return max(rounding, 2 * math.sqrt(H.eps) * abs(H.loss) / max(size, 1.0))


def _stationary(H: Operator, norm: float | None, largest: float) -> bool | None:
    if norm is None or not isinstance(H, Measured):
        return None
    return norm == 0 or (largest > 0 and norm**2 / (2 * largest) <= 1e-3 * abs(H.loss))
