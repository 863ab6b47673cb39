"""The density of the eigenvalues of a symmetric operator, by Lanczos quadrature."""

import math
from dataclasses import dataclass

import torch

from fallline.arguments import check_integer
from fallline.formatting import format_measurement
from fallline.landscape.operators.base import Meter, Symmetric, as_operator, seeded
from fallline.landscape.progress import Progress
from fallline.landscape.spectrum.intervals import mean_interval
from fallline.landscape.spectrum.lanczos import Lanczos

_GRID = 512  # points
_WIDTH = 0.01  # of the bumps that nodes are drawn as, relative to the width of the spectrum
_ZERO = 1e-4  # relative to the largest magnitude: what counts as zero in float32; its square in float64


@dataclass(frozen=True)
class Density:
    """The density of eigenvalues, as points with weights and as a curve.

    Attributes:
        grid, density: the curve; it integrates to 1.
        nodes, weights: the quadrature, every probe's nodes, with weights that sum to 1: of any smooth function f, the
            mean over all eigenvalues is about Σ weights·f(nodes).
        negative_mass: which part of the eigenvalues is negative, by more than `zero`.
        negative_ci95: its t-interval over the probes; it does not contain what the quadrature smears across zero.
        zero: magnitudes up to it count as zero.
        width: the standard deviation of the bumps that make the curve.
        matvecs: products that it took.
    """

    grid: torch.Tensor
    density: torch.Tensor
    nodes: torch.Tensor
    weights: torch.Tensor
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
    """Return the density of all eigenvalues, from random probes with so many Lanczos steps each.

    Args:
        H: an operator, or a symmetric matrix as a tensor.
        probes: random vectors, at least 2; the interval is over them.
        steps: products a probe, at least 2: the resolution.
        seed: of the random vectors.
        progress: told of every product, and before the first.

    Raises:
        ArgumentError: an argument cannot be used.

    Example:
        >>> found = spectral_density(torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64)), probes=50)
        >>> low, high = found.negative_ci95
        >>> low < 0.25 < high
        True
    """
    operator = as_operator("spectral_density", H)
    for name, value in (("probes", probes), ("steps", steps)):
        check_integer("spectral_density", name, value, 2, "4 and 40 are usual")
    n = operator.shape[0]
    steps = min(steps, n)
    meter, generator = Meter(operator, probes * steps, steps, progress), seeded("spectral_density", seed)
    found = []
    for _ in range(probes):
        basis = Lanczos(meter, steps, generator)
        while not basis.full:
            basis.step()
            if basis.broken:  # the probe lies in a space that is known now: its quadrature is exact
                break
        values, vectors, _ = basis.ritz()
        found.append((values, vectors[0].square()))
    return _summary(found, _ZERO if torch.finfo(operator.dtype).eps > 1e-10 else _ZERO**2, meter.done)


def _summary(found: list[tuple[torch.Tensor, torch.Tensor]], zero: float, matvecs: int) -> Density:
    nodes = torch.cat([values for values, _ in found])
    weights = torch.cat([part for _, part in found]) / len(found)
    largest = nodes.abs().max().item()
    spread = max(nodes.max().item() - nodes.min().item(), 1e-3 * largest) or 1e-30
    width = _WIDTH * spread
    grid = torch.linspace(nodes.min().item() - 4 * width, nodes.max().item() + 4 * width, _GRID, dtype=torch.float64)
    bumps = torch.exp(-((grid[:, None] - nodes) ** 2) / (2 * width**2)) / (width * math.sqrt(2 * math.pi))
    negative = [float(part[values < -zero * largest].sum()) for values, part in found]
    mass, _, (low, high) = mean_interval(negative)
    return Density(
        grid, bumps @ weights, nodes, weights, mass, (max(0.0, low), min(1.0, high)), zero * largest, width, matvecs
    )
