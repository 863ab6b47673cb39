"""Stochastic estimates of the trace of a symmetric operator, with confidence intervals."""

from dataclasses import dataclass

import torch

from fallline.arguments import check_integer
from fallline.errors import ArgumentError
from fallline.formatting import format_measurement
from fallline.landscape.operators.base import Meter, Operator, Symmetric, as_operator, seeded
from fallline.landscape.progress import Progress
from fallline.landscape.spectrum.intervals import mean_interval

METHODS = ("auto", "hutchinson", "hutch++")
_FEWEST = 3  # products: the interval of two values is twelve times their standard error
HUTCH_PP = 30  # number of products from which the sketch of Hutch++ is worth its cost


@dataclass(frozen=True)
class Trace:
    """An estimate of a trace.

    Attributes:
        estimate: the estimate, which is unbiased.
        stderr: standard error of the estimate.
        ci95: 95 % t-interval. It is exact for normally distributed values, which is a good approximation if many
            eigenvalues contribute. If one eigenvalue dominates, use more products: Hutch++ then removes it.
        matvecs: number of products.
        method: "hutchinson", "hutch++", or "exact", which uses the unit vectors if there are no more than products.
    """

    estimate: float
    stderr: float
    ci95: tuple[float, float]
    matvecs: int
    method: str

    def __str__(self) -> str:
        low, high = map(format_measurement, self.ci95)
        interval = "" if self.method == "exact" else f", 95 % interval {low} to {high}"
        return f"{format_measurement(self.estimate, self.stderr)}{interval}; {self.method}, {self.matvecs} products"


def trace(
    H: Symmetric,
    matvecs: int = 30,
    seed: int = 0,
    *,
    method: str = "auto",
    progress: Progress | None = None,
) -> Trace:
    """Return an estimate of the trace from random sign vectors.

    Hutchinson's estimator is the mean of z'·H·z. Hutch++ (Meyer et al. 2021, arXiv:2010.09649, algorithm 1) uses a
    third of the products to find the dominant subspace, a third for the exact trace on it, and the last third to
    estimate the rest.

    Args:
        H: an operator, or a symmetric matrix as a tensor.
        matvecs: number of products, at least 3.
        seed: seed of the random vectors.
        method: "hutchinson", "hutch++", or "auto": exact if there are enough products, otherwise Hutch++ from 30
            products on, and Hutchinson's estimator below.
        progress: callback that receives a `Step` before the first product and after every product.

    Raises:
        ArgumentError: an argument is invalid.

    Example:
        >>> matrix = torch.ones(50, 50) + torch.diag(torch.arange(50.0))
        >>> found = trace(matrix, matvecs=20)
        >>> low, high = found.ci95
        >>> low < 1275 < high
        True
    """
    operator = as_operator("trace", H)
    if method not in METHODS:
        raise ArgumentError(f"trace: method must be one of {', '.join(METHODS)}, got {method=}; leave it out")
    check_integer("trace", "matvecs", matvecs, _FEWEST, "a typical value is 30")
    generator = seeded("trace", seed)
    n = operator.shape[0]
    if method == "auto" and n <= matvecs:
        return _exact(operator, Meter(operator, n, 2, progress))
    wants_sketch = method == "hutch++" or (method == "auto" and matvecs >= HUTCH_PP)
    sketch = min(matvecs // 3, n) if wants_sketch else 0
    rest = matvecs - 2 * sketch
    if rest < 2:
        raise ArgumentError(f"trace: matvecs must be at least 6 for hutch++, got {matvecs=}; use hutchinson")
    with operator.keep_graph():
        return _estimate(operator, Meter(operator, matvecs, 2 * sketch + 3, progress), sketch, rest, generator)


def _estimate(H: Operator, meter: Meter, sketch: int, rest: int, generator: torch.Generator) -> Trace:
    """Return the estimate from `2·sketch` products for the dominant subspace and `rest` products outside of it."""

    def signs() -> torch.Tensor:
        draw = torch.randint(0, 2, H.shape[:1], generator=generator, dtype=torch.int8)
        return (2 * draw - 1).to(H.device, H.dtype)

    basis, exact = None, 0.0
    if sketch:
        found = torch.stack([meter.product(signs()) for _ in range(sketch)], 1)
        basis = _orthonormal(found)
        exact = sum(_dot(column, meter.product(column)) for column in basis.unbind(1))
    values = []
    for _ in range(rest):
        vector = signs()
        if basis is not None:
            vector = vector - basis @ (basis.T @ vector)
        values.append(_dot(vector, meter.product(vector)))
    mean, stderr, interval = mean_interval(values, exact)
    return Trace(mean, stderr, interval, meter.done, "hutch++" if sketch else "hutchinson")


def _exact(H: Operator, meter: Meter) -> Trace:
    unit = torch.eye(H.shape[0], dtype=H.dtype, device=H.device)
    with H.keep_graph():
        found = sum(_dot(column, meter.product(column)) for column in unit)
    return Trace(found, 0.0, (found, found), meter.done, "exact")


def _orthonormal(columns: torch.Tensor) -> torch.Tensor:
    """Return an orthonormal basis of the column space, with at most as many vectors as the rank."""
    basis, triangle = torch.linalg.qr(columns)
    sizes = triangle.diagonal().abs()
    return basis[:, sizes > 10 * torch.finfo(columns.dtype).eps * sizes.max()]  # type: ignore[no-any-return]


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a.double() @ b.double())
