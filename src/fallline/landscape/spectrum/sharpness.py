"""Sharpness, the largest curvature, and how near it is to where an optimizer becomes unstable."""

from dataclasses import dataclass
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

    It gauges stability: above `limit` full-batch steps along it grow. It does not foretell generalisation.

    Attributes:
        value: that eigenvalue.
        bound: within it of `value` there is an eigenvalue.
        converged: as in `Eigen`.
        limit: the largest stable value at the present learning rate, for full batches; None without an optimizer.
        preconditioned: whether P is not 1.
        vector: (n,), its direction; in the coordinates P^(1/2)·parameters if preconditioned.
        matvecs: products that it took.
    """

    value: float
    bound: float
    converged: bool
    limit: float | None
    preconditioned: bool
    vector: torch.Tensor
    matvecs: int

    @property
    def ratio(self) -> float | None:
        """`value` over `limit`: 1 is the edge of stability."""
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
    """Return the sharpness, and with an optimizer the limit that it must stay below.

    The limit is 2/lr for gradient descent, 2·(1 + μ)/lr with momentum, and for Adam 2·(1 + β1)/(1 − β1)/lr of the
    preconditioned Hessian: 38/lr at β1 = 0.9. Where groups differ in lr, that is taken into P, and the limit is the
    smallest. Decoupled weight decay is left out; L2 is in H only if `loss_fn` has it.

    Args:
        H: the Hessian, or any operator if there is no optimizer.
        optimizer: of Fallline, with a rule that declares its stability; SAM stands for its base.
        tol, seed, start, progress: as for `eigsh`.

    Raises:
        ArgumentError: an argument cannot be used, or a parameter of H is not in the optimizer, or is maximized by it.
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
        raise ArgumentError(f"sharpness: H must be a Hessian with an optimizer, got {type(H).__name__}; leave one out")
    if rule is None or getattr(rule, "stability", None) is None:
        raise ArgumentError(
            f"sharpness: optimizer must be one of Fallline whose rule declares its stability, got "
            f"{type(optimizer).__name__}; leave it out, or load its state into Fallline's class of the name"
        )
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    parts, limits = [], []
    for name, p in zip(H.objective.names, H.objective.params, strict=True):
        if id(p) not in groups:
            raise ArgumentError(f"sharpness: every parameter of H must be in the optimizer, got {name}; pass params=")
        if groups[id(p)].get("maximize", False):
            raise ArgumentError(
                f"sharpness: the optimizer must minimize the loss, got maximize=True for {name}; take the loss with "
                "the other sign, and maximize=False"
            )
        try:
            diagonal, limit = rule.stability_of(optimizer.state.get(p, {}), groups[id(p)])
        except KeyError:
            raise StateError(
                f"sharpness: the optimizer must have made a step, got {name} without state; measure after one"
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
