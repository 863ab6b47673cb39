"""The spectral density of a symmetric operator by stochastic Lanczos quadrature."""

import math
import statistics
from dataclasses import dataclass, field

import torch

from fallline.arguments import check_integer
from fallline.formatting import format_measurement
from fallline.landscape.operators.base import Meter, Symmetric, as_operator, seeded
from fallline.landscape.progress import Progress
from fallline.landscape.spectrum.intervals import share_interval
from fallline.landscape.spectrum.lanczos import Lanczos
from fallline.landscape.spectrum.quadrature import Quadrature, quadrature

_GRID = 512  # points of the curve
_WIDTH = 0.01  # standard deviation of the kernel at each node, relative to the width of the spectrum
_ZERO = 1e-4  # magnitudes that count as zero, relative to the largest, in float32; the square of it in float64
_ROUNDING = 30.0  # the same in units of the rounding of the products, if these are less precise


@dataclass(frozen=True)
class Density:
    """The density of eigenvalues, as points with weights and as a curve.

    Attributes:
        grid, density: the curve, which integrates to 1.
        nodes, weights: the quadrature nodes of all probes, and their weights, which sum to 1. The mean of a smooth
            function f over all eigenvalues is about Σ weights·f(nodes).
        negative_mass: share of the eigenvalues that are negative by more than `zero`.
        negative_ci95: 95 % interval of that share. It contains the chance of the probes and the error of the quadrature
            near zero, which more steps make smaller.
        zero: magnitudes up to this value count as zero.
        width: standard deviation of the normal kernel that smooths the curve.
        matvecs: number of products.
    """

    grid: torch.Tensor = field(repr=False)
    density: torch.Tensor = field(repr=False)
    nodes: torch.Tensor = field(repr=False)
    weights: torch.Tensor = field(repr=False)
    negative_mass: float
    negative_ci95: tuple[float, float]
    zero: float
    width: float
    matvecs: int

    def __str__(self) -> str:
        ends = f"{format_measurement(float(self.nodes.min()))} to {format_measurement(float(self.nodes.max()))}"
        low, high = (f"{100 * part:.2g}" for part in self.negative_ci95)
        negative = f"{100 * self.negative_mass:.2g} % negative, 95 % interval {low} to {high} %"
        return f"eigenvalues from {ends}, {negative}; {self.matvecs} products"


def spectral_density(
    H: Symmetric,
    probes: int = 4,
    steps: int = 40,
    seed: int = 0,
    *,
    progress: Progress | None = None,
) -> Density:
    """Return the density of all eigenvalues, estimated from random probes by Lanczos iterations.

    Args:
        H: an operator, or a symmetric matrix as a tensor.
        probes: number of random vectors, at least 2.
        steps: number of products per probe, at least 2; more steps give a finer resolution.
        seed: seed of the random vectors.
        progress: callback that receives a `Step` before the first product and after every product.

    Raises:
        ArgumentError: an argument is invalid.

    Example:
        >>> found = spectral_density(torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64)), probes=50)
        >>> low, high = found.negative_ci95
        >>> low <= 0.25 <= high
        True
    """
    operator = as_operator("spectral_density", H)
    for name, value in (("probes", probes), ("steps", steps)):
        check_integer("spectral_density", name, value, 2, "typical values are 4 and 40")
    n = operator.shape[0]
    steps = min(steps, n)
    meter, generator = Meter(operator, probes * steps, steps, progress), seeded("spectral_density", seed)
    with operator.keep_graph():
        found = [quadrature(Lanczos(meter, steps, generator)) for _ in range(probes)]
    small = max(_ZERO if torch.finfo(operator.dtype).eps > 1e-10 else _ZERO**2, _ROUNDING * operator.eps)
    return _summary(found, n, small, meter.done)


def _summary(found: list[Quadrature], n: int, small: float, matvecs: int) -> Density:
    rules = [quadrature.gauss for quadrature in found]
    nodes = torch.cat([values for values, _ in rules])
    weights = torch.cat([part for _, part in rules]) / len(rules)
    largest = nodes.abs().max().item()
    spread = max(nodes.max().item() - nodes.min().item(), 1e-3 * largest) or 1e-30
    width = _WIDTH * spread
    grid = torch.linspace(nodes.min().item() - 4 * width, nodes.max().item() + 4 * width, _GRID, dtype=torch.float64)
    bumps = torch.exp(-((grid[:, None] - nodes) ** 2) / (2 * width**2)) / (width * math.sqrt(2 * math.pi))
    zero = small * largest
    bounds = [quadrature.mass_below(-zero) for quadrature in found]
    low, high = (statistics.fmean(ends) for ends in zip(*bounds, strict=True))
    mass = float(weights[nodes < -zero].sum())
    interval = share_interval(min(low, mass), max(high, mass), len(found), n)
    return Density(grid, bumps @ weights, nodes, weights, mass, interval, zero, width, matvecs)
