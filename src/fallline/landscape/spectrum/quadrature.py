"""Gauss and Gauss-Radau quadrature of the spectral measure of a probe, from its Lanczos iteration."""

from dataclasses import dataclass

import torch

from fallline.landscape.spectrum.lanczos import Lanczos


@dataclass(frozen=True)
class Quadrature:
    """The tridiagonal matrix of a probe: the measure has a weight at every eigenvalue, and its quadrature at the nodes.

    Attributes:
        T: (J, J) float64, the operator projected onto the basis.
        beta: norm of the part of the last product outside of the basis; 0 if the quadrature is exact.
    """

    T: torch.Tensor
    beta: float

    @property
    def gauss(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Nodes and weights."""
        values, vectors = torch.linalg.eigh(self.T)
        return values, vectors[0].square()

    def mass_below(self, at: float) -> tuple[float, float]:
        """Return lower and upper bounds of the weight of the measure below `at`.

        By the inequalities of Chebyshev, Markov and Stieltjes, the weight below a node is at least the sum of the
        weights of the lower nodes, and at most that sum plus the weight of the node itself. The Gauss-Radau quadrature
        has a node at `at` (Golub and Meurant 2010, Matrices, Moments and Quadrature, section 6.2).
        """
        values, vectors = torch.linalg.eigh(self.T)
        if not self.beta:
            exact = float(vectors[0].square()[values < at].sum())
            return exact, exact
        distances = values - at
        if float(distances.abs().min()) > 0:  # otherwise a node of the Gauss quadrature is at `at` already
            size = len(self.T)
            radau = torch.zeros(size + 1, size + 1, dtype=torch.float64)
            radau[:size, :size] = self.T
            radau[size, size - 1] = radau[size - 1, size] = self.beta
            radau[size, size] = at + self.beta**2 * float((vectors[-1].square() / distances).sum())
            values, vectors = torch.linalg.eigh(radau)
        weights = vectors[0].square()
        node = int((values - at).abs().argmin())
        lower = float(weights[:node].sum())
        return lower, min(1.0, lower + float(weights[node]))


def quadrature(basis: Lanczos) -> Quadrature:
    """Run a Lanczos iteration from a random probe, up to its number of steps or an invariant subspace."""
    while not basis.full:
        basis.step()
        if basis.broken:  # the basis spans an invariant subspace that contains the probe: the quadrature is exact
            break
    exact = basis.broken or basis.size == basis.dimension
    return Quadrature(basis.T[: basis.size, : basis.size].clone(), 0.0 if exact else basis.beta)
