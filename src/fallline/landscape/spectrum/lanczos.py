"""The Lanczos iteration with full reorthogonalization."""

import math

import torch

from fallline.landscape.operators.base import Meter

_BREAKDOWN = 50.0  # ulps of the largest number seen: a shorter remainder is rounding, not a new direction


class Lanczos:
    """An orthonormal Krylov basis of a symmetric operator, and the operator projected onto it.

    Every new vector is orthogonalized twice against all others and against `locked`, because once is not enough where
    eigenvalues have converged. The projection T is in float64, whatever the dtype of the vectors. After a breakdown,
    which is detected relative to the largest number seen, the iteration continues with a random direction, so that
    further copies of an eigenvalue can be found.

    Args:
        meter: counts the products with the operator.
        steps: largest number of basis vectors; the memory for them is allocated at construction.
        generator: random number generator for the random directions.
        locked: orthonormal columns (n, j) to which the basis stays orthogonal, or None.
        start: (n,), the first direction; random by default.
    """

    def __init__(
        self,
        meter: Meter,
        steps: int,
        generator: torch.Generator,
        locked: torch.Tensor | None = None,
        start: torch.Tensor | None = None,
    ) -> None:
        self.meter, self.generator, self.locked = meter, generator, locked
        self.H = H = meter.H
        n = H.shape[0]
        self.dimension = n - (0 if locked is None else locked.shape[1])
        self.steps = min(steps, self.dimension)
        self._rows = torch.empty(self.steps, n, dtype=H.dtype, device=H.device)  # a basis vector is a row
        self.T = torch.zeros(self.steps, self.steps, dtype=torch.float64)
        self.size = 0  # number of basis vectors whose product is in T
        self.scale = 0.0
        self.beta = 0.0  # norm of the part of the last product outside of the basis
        self.betas: list[float] = []  # beta of each step
        self.breaks: list[bool] = []  # whether a step ended a chain, because its beta was rounding
        self.broken = False  # the last product was in the span of the basis: a random direction comes next
        self.eps, self.noise = torch.finfo(H.dtype).eps, H.eps  # rounding of the basis, and of the products
        first = self.draw() if start is None else self._orthogonal(start.to(H.device, H.dtype), 0)
        norm = _norm(first)
        self._next = first / norm if norm > 0 else self.draw()

    def draw(self) -> torch.Tensor:
        """Return a random unit vector, orthogonal to the basis and to the locked vectors."""
        for _ in range(3):
            draw = torch.randn(self.H.shape[0], generator=self.generator, dtype=torch.float64)
            vector = self._orthogonal(draw.to(self.H.device, self.H.dtype), self.size)
            if (norm := _norm(vector)) > 0:
                return self._orthogonal(vector / norm, self.size)
        return vector

    def _orthogonal(self, vector: torch.Tensor, size: int, passes: int = 2) -> torch.Tensor:
        basis = self._rows[:size]
        for _ in range(passes):
            vector = vector - basis.T @ (basis @ vector)
            if self.locked is not None:
                vector = vector - self.locked @ (self.locked.T @ vector)
        return vector

    @property
    def basis(self) -> torch.Tensor:
        """The basis as columns (n, size)."""
        return self._rows[: self.size].T

    @property
    def full(self) -> bool:
        """Whether there is no memory or no dimension left for another vector."""
        return self.size == self.steps

    def step(self) -> None:
        """Compute the product with the next basis vector, and add it to the projection."""
        j = self.size
        self._rows[j] = self._next
        vector = self._rows[j]
        product = self.meter.product(vector)
        column = self._project(product, j + 1)
        self.T[j, : j + 1] = self.T[: j + 1, j] = column
        self.size = j + 1
        rest = self._orthogonal(product, self.size)
        self.beta = _norm(rest)
        self.scale = max(self.scale, abs(column[-1].item()) + self.beta)
        self.broken = self.beta <= _BREAKDOWN * self.eps * self.scale * math.sqrt(self.size)
        self.betas.append(self.beta)
        self.breaks.append(self.broken)
        if self.size < self.dimension:
            self._next = self.draw() if self.broken else self._unit(rest)

    def _project(self, product: torch.Tensor, size: int) -> torch.Tensor:
        """Return the inner products with the basis in float64, without a float64 copy of the whole basis."""
        if product.dtype == torch.float64:
            return (self._rows[:size] @ product).cpu()
        return torch.stack([(row.double() @ product.double()).cpu() for row in self._rows[:size]])

    def _unit(self, vector: torch.Tensor) -> torch.Tensor:
        # The vector may be short: dividing it by its norm amplifies the components along the basis left by rounding.
        vector = self._orthogonal(vector / _norm(vector), self.size, passes=1)
        return vector / _norm(vector)

    def ritz(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the Ritz values in ascending order, their vectors in the basis as columns, and their residuals."""
        T = self.T[: self.size, : self.size]
        values, vectors = torch.linalg.eigh(T)
        beta = 0.0 if self.broken or self.size == self.dimension else self.beta
        return values, vectors, vectors[-1].abs() * beta

    def compress(self, coefficients: torch.Tensor) -> None:
        """Restart with fewer vectors: the given linear combinations of the basis, and the next direction.

        Args:
            coefficients: (size, kept), Ritz vectors in the basis.
        """
        kept = coefficients.shape[1]
        values = ((coefficients.T @ self.T[: self.size, : self.size]) @ coefficients).diagonal()
        mixed = coefficients.T.to(self.H.device, self.H.dtype)
        for columns in range(0, self.H.shape[0], 1 << 16):  # in parts, to avoid a second basis
            part = self._rows[: self.size, columns : columns + (1 << 16)]
            self._rows[:kept, columns : columns + (1 << 16)] = mixed @ part
        self.T.zero_()
        self.T[:kept, :kept] = torch.diag(values)
        self.size = kept
        self._next = self._unit(self._next)


def _norm(vector: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(vector, dtype=torch.float64))
