"""Classification of the current point (minimum, saddle, flat, undetermined or not stationary)."""

import math
from dataclasses import dataclass, field

import torch

from fallline.errors import ArgumentError
from fallline.formatting import format_measurement
from fallline.landscape.operators.base import Operator, Symmetric, as_operator
from fallline.landscape.operators.hessian import Measured
from fallline.landscape.progress import Progress
from fallline.landscape.spectrum.eigsh import Eigen, eigsh

KINDS = ("minimum", "saddle", "flat", "undetermined", "not stationary")
_CURVATURES = {"minimum": "positive", "saddle": "negative", "flat": "zero", "undetermined": "undetermined"}
_GAIN = 1e-3  # largest change of the loss by a Newton step along the gradient at a critical point, relative to the loss
_ROUNDING = 30.0  # ulps of the largest curvature: smaller curvature counts as zero
_ENDS = 3  # eigenvalues computed at each end


@dataclass(frozen=True)
class Point:
    """The curvature at a point, and its classification.

    Attributes:
        kind: "minimum" (all curvature is positive), "saddle" (some is negative), "flat" (all is zero), "undetermined"
            (the smallest eigenvalue cannot be distinguished from 0, for example because of dead units), or "not
            stationary" (the gradient is too large for a critical point).
        curvature: "positive", "negative", "zero" or "undetermined", also where the point is not stationary.
        smallest, largest: the eigenvalues λmin and λmax.
        smallest_bound, largest_bound: upper bounds of the distance to the nearest eigenvalue.
        gradient: norm of the gradient; None if it is not known.
        stationary: whether ‖g‖²/(2·|g'·H·g|/‖g‖²), the change of the loss in a Newton step along the gradient, is at
            most a thousandth of the loss. None if the gradient or the loss is not known; `kind` then assumes it.
        condition: λmax over the smallest eigenvalue found whose bound excludes 0; None with negative curvature, or if
            there is no such eigenvalue.
        tolerance: curvature of at most this magnitude counts as zero.
        eigen: all eigenvalues that were computed.
    """

    kind: str
    curvature: str
    smallest: float
    smallest_bound: float
    largest: float
    largest_bound: float
    gradient: float | None
    stationary: bool | None
    condition: float | None
    tolerance: float
    eigen: Eigen = field(repr=False)

    @property
    def sentence(self) -> str:
        """The classification as a sentence."""
        smallest = format_measurement(self.smallest, self.smallest_bound)
        ends = f"λmin = {smallest}, λmax = {format_measurement(self.largest, self.largest_bound)}"
        known = "" if self.gradient is None else f"; ‖g‖ = {self.gradient:.2g}"
        if self.stationary:
            known += ", stationary"
        what = self.kind
        if self.kind == "not stationary":
            sign = {"zero": "no", "undetermined": "undetermined"}.get(self.curvature, self.curvature)
            what = f"not stationary; {sign} curvature"
        if self.curvature == "negative":
            ratio = "undefined at a saddle" if self.kind == "saddle" else "undefined with negative curvature"
        else:
            ratio = "not determined" if self.condition is None else f"{self.condition:.2g}"
        return f"{what}: {ends}{known}; condition number {ratio}"

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
    """Classify a point as minimum, saddle, flat or undetermined by its curvature, or as not stationary by its gradient.

    Negative curvature is certain if there is one direction of it: λmin plus its bound is below 0. Its absence is only
    as certain as that `eigsh` has not missed such a direction, so "minimum" requires that it `converged`. If the
    operator has a loss, the gradient is compared with the curvature along it, which takes one more product.

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
    with operator.keep_graph():
        found = eigsh(operator, k, "BE", tol, seed, max_matvecs=max_matvecs, progress=progress)
        values, bounds = found.values.tolist(), found.bound.tolist()
        loss = operator.loss if isinstance(operator, Measured) else None
        least = _least(operator, max(map(abs, values)), loss) if tolerance is None else tolerance
        if grad is None and isinstance(operator, Measured):
            grad = operator.gradient()
        norm = None if grad is None else float(torch.linalg.vector_norm(grad.double()))
        stationary = None if grad is None or loss is None else _is_stationary(operator, grad, loss, least)
    kind = _kind(values, bounds, least, found.converged)
    excluded = [value for value, bound in zip(values, bounds, strict=True) if value - bound > least]
    condition = values[-1] / min(excluded) if kind in ("minimum", "undetermined") and excluded[:-1] else None
    return Point(
        "not stationary" if stationary is False else kind,
        _CURVATURES[kind],
        values[0],
        bounds[0],
        values[-1],
        bounds[-1],
        norm,
        stationary,
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


def _least(H: Operator, scale: float, loss: float | None) -> float:
    """Return the default tolerance: curvature of at most this magnitude counts as zero."""
    rounding = _ROUNDING * H.eps * scale
    if not isinstance(H, Measured) or loss is None:
        return rounding
    size = sum(float(p.detach().double().square().sum()) for p in H.objective.params)
    return max(rounding, 2 * math.sqrt(H.eps) * abs(loss) / max(size, 1.0))


def _is_stationary(H: Operator, grad: torch.Tensor, loss: float, least: float) -> bool:
    """Return whether a Newton step along the gradient would change the loss by at most a small part of it.

    The curvature along the gradient decides, not λmax: one steep direction must not make every gradient look small.
    """
    norm = float(torch.linalg.vector_norm(grad.double()))
    if norm == 0:
        return True
    unit = grad.to(H.device, H.dtype) / norm
    along = max(abs(float(unit.double() @ (H @ unit).double())), least)
    return along > 0 and norm**2 / (2 * along) <= _GAIN * abs(loss)
