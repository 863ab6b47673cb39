"""Sharpness, the largest curvature, relative to the limit at which an optimizer becomes unstable."""

from dataclasses import dataclass, field
from typing import Any

import torch

from fallline.errors import ArgumentError, StateError
from fallline.formatting import format_measurement
from fallline.landscape.operators.base import Operator, Symmetric, as_operator
from fallline.landscape.operators.hessian import Measured
from fallline.landscape.operators.preconditioned import Preconditioned
from fallline.landscape.progress import Progress
from fallline.landscape.spectrum.eigsh import eigsh


@dataclass(frozen=True)
class Sharpness:
    """The largest eigenvalue of the Hessian, or of P⁻¹·Hessian for an optimizer that divides its steps by P.

    It measures stability: above `limit`, full-batch steps along its eigenvector grow. It does not predict
    generalization.

    Attributes:
        value: the largest eigenvalue.
        bound: there is an eigenvalue within this distance of `value`.
        converged: as in `Eigen`.
        limit: the largest stable value at the current learning rate, for full batches; None without an optimizer.
        preconditioned: whether P is not 1.
        vector: (n,), the eigenvector; in the coordinates P^(1/2)·parameters if preconditioned.
        matvecs: number of products.
    """

    value: float
    bound: float
    converged: bool
    limit: float | None
    preconditioned: bool
    vector: torch.Tensor = field(repr=False)
    matvecs: int

    @property
    def ratio(self) -> float | None:
        """`value` divided by `limit`; the edge of stability is at 1."""
        return None if self.limit is None else self.value / self.limit

    def __str__(self) -> str:
        edge = ""
        if self.limit is not None:
            edge = f", {format_measurement(self.value / self.limit)} of the limit {format_measurement(self.limit)}"
        doubt = "" if self.converged else "; not converged"
        return f"{format_measurement(self.value, self.bound)}{edge}{doubt}; {self.matvecs} products"


def sharpness(
    H: Symmetric,
    optimizer: Any = None,
    *,
    tol: float = 1e-3,
    seed: int = 0,
    start: torch.Tensor | None = None,
    progress: Progress | None = None,
) -> Sharpness:
    """Return the sharpness and, with an optimizer, its limit of stability.

    The limit is 2/lr for gradient descent, 2·(1 + μ)/lr with momentum, and 2·(1 + β1)/(1 − β1)/lr for the
    preconditioned Hessian of Adam, which is 38/lr at β1 = 0.9. If groups have different learning rates, the differences
    are included in P, and the limit is the smallest one. Decoupled weight decay is ignored; L2 regularization is
    included in H only if `loss_fn` includes it.

    Args:
        H: the Hessian, or any operator if there is no optimizer.
        optimizer: an optimizer of Fallline whose rule declares its stability. For SAM, its base optimizer is used.
        tol, seed, start, progress: as for `eigsh`.

    Raises:
        ArgumentError: an argument is invalid, or the optimizer does not have a parameter of H or maximizes its loss.
        StateError: the optimizer has not made a step yet, and its rule needs one.

    Example:
        >>> round(sharpness(torch.diag(torch.tensor([3.0, 1.0]))).value, 4)
        3.0
    """
    operator = as_operator("sharpness", H)
    limit, preconditioned = None, False
    if optimizer is not None:
        operator, limit, preconditioned = _precondition(operator, getattr(optimizer, "base", optimizer))
    found = eigsh(operator, 1, "LA", tol, seed, start=start, progress=progress)
    return Sharpness(
        float(found.values[0]),
        float(found.bound[0]),
        found.converged,
        limit,
        preconditioned,
        found.vectors[:, 0],
        found.matvecs,
    )


def _precondition(H: Operator, optimizer: Any) -> tuple[Operator, float, bool]:
    rule = getattr(optimizer, "rule", None)
    if not isinstance(H, Measured):
        raise ArgumentError(
            f"sharpness: H must be a Hessian if an optimizer is given, got {type(H).__name__}; pass a Hessian, or no "
            "optimizer"
        )
    if rule is None or getattr(rule, "stability", None) is None:
        raise ArgumentError(
            f"sharpness: optimizer must be one of Fallline whose rule declares its stability, got "
            f"{type(optimizer).__name__}; leave it out, or load its state into Fallline's class of that name"
        )
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    parts, limits = [], []
    for name, p in zip(H.objective.names, H.objective.params, strict=True):
        if id(p) not in groups:
            raise ArgumentError(f"sharpness: every parameter of H must be in the optimizer, got {name}; pass params=")
        if groups[id(p)].get("maximize", False):
            raise ArgumentError(
                f"sharpness: the optimizer must minimize the loss, got maximize=True for {name}; negate the loss and "
                "use maximize=False"
            )
        try:
            diagonal, limit = rule.stability_of(optimizer.state_as_numbers(p), groups[id(p)])
        except KeyError:
            raise StateError(
                f"sharpness: the optimizer must have made a step, got no state for {name}; call optimizer.step() first"
            ) from None
        plain = not isinstance(diagonal, torch.Tensor)
        parts.append(torch.full_like(p, float(diagonal), dtype=torch.float64) if plain else diagonal.double())
        limits.append(limit)
    reference = min(limits)
    if all(limit == reference for limit in limits) and all(bool((part == 1).all()) for part in parts):
        return H, reference, False
    scaled = [
        part * (limit / reference if limit != reference else 1.0) for part, limit in zip(parts, limits, strict=True)
    ]
    flat = torch.cat([part.reshape(-1).to(H.device) for part in scaled])
    return Preconditioned(H, flat), reference, True
