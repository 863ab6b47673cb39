"""What kind of point a model is at: minimum, saddle or flat, as far as the curvature can tell."""

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
_ROUNDING = 30.0  # ulps of the largest curvature: less is no curvature
_ENDS = 3  # eigenvalues sought at either end


@dataclass(frozen=True)
class Point:
    """The curvature at a point, and what it says.

    Attributes:
        kind: "minimum" (all curvature is positive), "saddle" (some is negative), "flat" (none is there), or
            "undetermined": the smallest eigenvalue cannot be told from 0, as where units are dead.
        smallest, largest: eigenvalues, λmin and λmax.
        smallest_bound, largest_bound: the distance to the nearest eigenvalue is at most this.
        gradient: its norm; None if it is not known.
        stationary: whether a Newton-like step, ‖g‖²/(2·λmax), would change the loss by less than a thousandth of it;
            None if that is not known. Elsewhere the kind is that of the curvature: it is no critical point.
        condition: λmax over the smallest eigenvalue found whose bound excludes 0; None at a saddle, or where none does.
        tolerance: curvature up to it counts as none.
        eigen: everything that was found.
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
        """The verdict in words."""
        smallest = format_measurement(self.smallest, self.smallest_bound)
        ends = f"λmin = {smallest}, λmax = {format_measurement(self.largest, self.largest_bound)}"
        known = "" if self.gradient is None else f"; ‖g‖ = {self.gradient:.2g}"
        if self.stationary is not None:
            known += ", stationary" if self.stationary else ", still on a slope"
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
    """Return what kind of point the curvature makes of it.

    A saddle is certain once one direction curves down: λmin plus its bound is below 0. That there is no such direction
    is only as certain as `eigsh` has missed none, so "minimum" needs its `converged`.

    Args:
        H: a Hessian, an operator, or a symmetric matrix as a tensor.
        grad: the gradient; that of the Hessian's loss by default.
        tolerance: curvature up to it counts as none; by default the larger of what rounding leaves in the products, and
            of what changes the loss by less than √eps of it over the length of the parameters, at least 1.
        tol, seed, max_matvecs, progress: as for `eigsh`.

    Raises:
        ArgumentError: an argument cannot be used.

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
        raise ArgumentError(f"classify_point: grad must have shape ({n},), got {got}; H.flatten(grads) makes it")
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
    """Return the curvature that counts as none."""
    eps = torch.finfo(H.dtype).eps
    rounding = _ROUNDING * eps * scale
    if not isinstance(H, Measured):
        return rounding
    size = sum(float(p.detach().double().square().sum()) for p in H.objective.params)
    return max(rounding, 2 * math.sqrt(eps) * abs(H.loss) / max(size, 1.0))


def _stationary(H: Operator, norm: float | None, largest: float) -> bool | None:
    if norm is None or not isinstance(H, Measured):
        return None
    return norm == 0 or (largest > 0 and norm**2 / (2 * largest) <= 1e-3 * abs(H.loss))
