"""The extreme eigenvalues of a symmetric operator, with error bounds and the probability that one was missed."""

import math
from dataclasses import dataclass, field

import torch

from fallline.arguments import check_integer
from fallline.errors import ArgumentError
from fallline.formatting import format_measurement
from fallline.landscape.operators.base import Meter, Operator, Symmetric, as_operator, seeded
from fallline.landscape.progress import Progress
from fallline.landscape.spectrum.lanczos import Lanczos
from fallline.landscape.spectrum.miss_probability import miss_probability

WHICH = ("LA", "SA", "LM", "BE")
MISS = 1e-3  # largest probability of a missed eigenvalue with which a result counts as `converged`
_BASIS = 128  # basis vectors: a larger basis costs more than a restart
_ROUNDING = 30.0  # error of a residual, in ulps of the largest eigenvalue
_TINY = 1e-60


@dataclass(frozen=True)
class Eigen:
    """Eigenvalues and eigenvectors, with error bounds.

    Attributes:
        values: (k,) float64; in descending order for LA and LM, in ascending order for SA and BE.
        vectors: (n, k), orthonormal.
        residuals: (k,), ‖H·x − value·x‖ for each pair.
        bound: (k,), the residual plus the error of the product and an allowance for rounding; there is an eigenvalue
            within it of each value.
        converged: whether every residual is within the tolerance, and the search for missed eigenvalues found none and
            ended with a `miss_probability` of at most 0.001.
        matvecs: number of products, without the k reference products in float64 that measure the error of finite
            differences and of losses computed in a lower precision than their parameters.
        miss_probability: probability that the search missed an eigenvalue that belongs among these and lies farther
            than `resolution` beyond the last one.
        resolution: distance from the last value within which a missed eigenvalue cannot be distinguished from it.
    """

    values: torch.Tensor
    vectors: torch.Tensor = field(repr=False)
    residuals: torch.Tensor = field(repr=False)
    bound: torch.Tensor
    converged: bool
    matvecs: int
    miss_probability: float
    resolution: float

    def __str__(self) -> str:
        values = ", ".join(map(format_measurement, self.values.tolist(), self.bound.tolist()))
        miss = f"probability of a missed eigenvalue {self.miss_probability:.1g}"
        return f"{values}; {'' if self.converged else 'not '}converged, {miss}; {self.matvecs} products"


def eigsh(
    H: Symmetric,
    k: int = 1,
    which: str = "LA",
    tol: float = 1e-3,
    seed: int = 0,
    *,
    start: torch.Tensor | None = None,
    max_matvecs: int | None = None,
    memory: int = 1 << 30,
    progress: Progress | None = None,
) -> Eigen:
    """Return k extreme eigenvalues and their eigenvectors.

    The Lanczos iteration finds only one copy of a repeated eigenvalue. After k values have converged, another search
    therefore starts at a random vector orthogonal to their vectors. It continues until it finds another one that
    belongs among the k, or until it would have found one with a probability of 0.999.

    Args:
        H: an operator, or a symmetric matrix as a tensor.
        k: number of eigenvalues.
        which: "LA" the largest, "SA" the smallest, "LM" those of largest magnitude, "BE" the k//2 smallest and the
            k − k//2 largest.
        tol: largest residual, relative to the largest magnitude. A well separated eigenvalue then has a relative error
            of about tol².
        seed: seed of the random vectors.
        start: initial vectors, (n,) or (n, j), for example those of an earlier step of the training.
        max_matvecs: largest number of products; 300 + 20·k by default.
        memory: largest number of bytes for vectors. The first `Step` passed to `progress` has the number used.
        progress: callback that receives a `Step` before the first product and after every product.

    Raises:
        ArgumentError: an argument is invalid.

    Example:
        >>> found = eigsh(torch.diag(torch.tensor([5.0, -1.0, 5.0, 2.0])), k=3)
        >>> [round(value, 3) for value in found.values.tolist()], found.converged
        ([5.0, 5.0, 2.0], True)
    """
    operator = as_operator("eigsh", H)
    n = operator.shape[0]
    if which not in WHICH:
        raise ArgumentError(f"eigsh: which must be one of {', '.join(WHICH)}, got {which=}; LA gives the largest")
    if not isinstance(k, int) or not 1 <= k <= n:
        raise ArgumentError(f"eigsh: k must be from 1 to {n}, the size of H, got {k=}; typical values are 1 to 5")
    if not isinstance(tol, int | float) or not 0 < tol < 1:
        raise ArgumentError(f"eigsh: tol must be in (0, 1), got {tol=!r}; a typical value is 1e-3")
    limit = 300 + 20 * k if max_matvecs is None else max_matvecs
    if not isinstance(limit, int) or (limit < 2 * k + 2 and limit < n + k):
        raise ArgumentError(
            f"eigsh: max_matvecs must be at least {2 * k + 2}, got {max_matvecs!r}; each residual takes one product"
        )
    if start is not None and (not isinstance(start, torch.Tensor) or start.dim() not in (1, 2) or len(start) != n):
        got = tuple(start.shape) if isinstance(start, torch.Tensor) else type(start).__name__
        raise ArgumentError(f"eigsh: start must have shape ({n},) or ({n}, j), got {got}; pass vectors of H, or None")
    search = _Search(operator, k, which, tol, seed, limit, _vectors(n, k, operator.dtype, memory), progress)
    with operator.keep_graph():
        return search.run(start)


def _vectors(n: int, k: int, dtype: torch.dtype, memory: int) -> int:
    """Return the number of basis vectors that fit into memory, next to the k of the result and k temporary ones."""
    check_integer("eigsh", "memory", memory, 1, "leave it out for 1 << 30 bytes")
    size = n * torch.finfo(dtype).bits // 8
    least, wanted = min(n, k + 3), min(n, max(_BASIS, 4 * k))
    room = memory // size - 2 * k
    if room < least:
        need = (least + 2 * k) * size
        raise ArgumentError(f"eigsh: memory must be at least {need} bytes for k={k} and n={n}, got {memory=}")
    return min(room, wanted)


class _Search:
    def __init__(
        self,
        H: Operator,
        k: int,
        which: str,
        tol: float,
        seed: int,
        limit: int,
        room: int,
        progress: Progress | None,
    ) -> None:
        self.H, self.k, self.which, self.tol = H, k, which, tol
        self.generator = seeded("eigsh", seed)
        self.room = room
        self.meter = Meter(H, limit, room + 2 * k, progress)
        self.scale = 0.0
        self.miss = 1.0
        self.locked: torch.Tensor | None = None
        self.values = torch.empty(0, dtype=torch.float64)

    def run(self, start: torch.Tensor | None) -> Eigen:
        found = self._round(self._first(start))
        while found and self.miss > MISS:
            found = self._round(None)
        return self._result()

    def _first(self, start: torch.Tensor | None) -> torch.Tensor | None:
        if start is None:
            return None
        vector = (start if start.dim() == 1 else start.sum(1)).double().cpu()
        draw = torch.randn(len(vector), generator=self.generator, dtype=torch.float64)
        # A random part is added, because the new eigenvectors may be orthogonal to the initial vectors.
        return vector / max(vector.norm().item(), _TINY) + 0.1 * draw / draw.norm()  # type: ignore[no-any-return]

    @property
    def _spent(self) -> bool:
        """Whether all remaining products are needed for the final residuals."""
        return self.meter.done + self.k >= self.meter.total

    def _round(self, start: torch.Tensor | None) -> bool:
        """Search the space orthogonal to the locked vectors; return whether to search again.

        The first round searches for k values. Later rounds search for values that belong among the k locked ones.
        """
        first = self.locked is None
        if not first and self.locked.shape[1] == self.H.shape[0]:  # type: ignore[union-attr]
            self.miss = 0.0
            return False
        basis = Lanczos(self.meter, self.room, self.generator, self.locked, start)
        pure = True  # the basis is a chain from a random vector without a restart, as miss_probability requires
        while True:
            basis.step()
            last = basis.full or self._spent or basis.size == basis.dimension
            if basis.size > 32 and basis.size % 4 and not last:  # decompose a large projection only at every 4th step
                continue
            values, vectors, residuals = basis.ritz()
            self.scale = max(self.scale, basis.scale)
            new = self._wanted(values) if first else self._beyond(values)
            enough = len(new) == self.k if first else len(new) > 0
            if enough and bool((residuals[new] <= self.tol * self.scale).all()):
                self._lock(basis, values[new], vectors[:, new])
                return True
            if not enough and not first:
                self.miss = self._miss(basis) if pure else 1.0
                if self.miss <= MISS or last:
                    return False
            if self._spent or basis.size == basis.dimension:
                self._lock(basis, values[new], vectors[:, new])
                return basis.size == basis.dimension and not self._spent
            if basis.full:
                basis.compress(vectors[:, self._kept(values, vectors)])
                pure = False

    def _kept(self, values: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """Return the indices of the Ritz vectors that a restart keeps: the wanted ones and the next in order."""
        order = self._order(values)
        return order[: max(self.k, min(self.k + (len(values) - self.k) // 2, len(values) - 2))]

    def _order(self, values: torch.Tensor) -> torch.Tensor:
        """Return the indices of values in the order of `which`, the most extreme first."""
        ascending = values.argsort()
        if self.which == "SA":
            return ascending
        if self.which == "LA":
            return ascending.flip(0)
        if self.which == "LM":
            return values.abs().argsort(descending=True)
        n, low = len(values), self.k // 2
        # Alternate between both ends in the proportion of the wanted values, so that every prefix is balanced.
        ranks = [((i + 0.5) / max(low, _TINY), i) for i in range(n)]
        ranks += [((i + 0.5) / (self.k - low), n - 1 - i) for i in range(n)]
        places = dict.fromkeys(place for _, place in sorted(ranks))
        return ascending[torch.tensor(list(places))]

    def _wanted(self, values: torch.Tensor) -> torch.Tensor:
        return self._order(values)[: self.k]

    def _beyond(self, values: torch.Tensor) -> torch.Tensor:
        """Return the indices of values that belong among the k."""
        low, high = self._thresholds()
        return ((values < low) | (values > high)).nonzero().flatten()

    def _thresholds(self) -> tuple[float, float]:
        chosen = self.values[self._wanted(self.values)].sort().values
        gap = self.tol * self.scale or math.sqrt(_TINY)  # any positive number will do for a zero matrix
        if self.which == "LM":
            limit = chosen.abs().min().item() + gap
            return -limit, limit
        low = {"SA": len(chosen), "BE": self.k // 2}.get(self.which, 0)
        return (
            chosen[low - 1].item() - gap if low else -math.inf,
            chosen[low].item() + gap if low < len(chosen) else math.inf,
        )

    def _lock(self, basis: Lanczos, values: torch.Tensor, coefficients: torch.Tensor) -> None:
        found = basis.basis @ coefficients.to(self.H.device, self.H.dtype)
        self.locked = found if self.locked is None else torch.cat([self.locked, found], 1)
        self.locked, _ = torch.linalg.qr(self.locked)
        self.values = torch.cat([self.values, values])
        order = self._order(self.values)[: self.k]  # `qr` keeps the order and direction of columns, up to rounding
        self.locked, self.values = self.locked[:, order], self.values[order]

    def _miss(self, basis: Lanczos) -> float:
        return min(1.0, sum(miss_probability(basis, end) for end in self._thresholds() if math.isfinite(end)))

    def _errors(self, vectors: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
        """Return the errors of products where these are less precise than their dtype, and 0 elsewhere."""
        errors = torch.zeros(vectors.shape[1], dtype=torch.float64)
        for k, (vector, product) in enumerate(zip(vectors.unbind(1), products.unbind(1), strict=True)):
            found = self.H.reference(vector.to(self.H.dtype))
            if found is None:
                break
            errors[k] = float(torch.linalg.vector_norm(product - found[0].double())) + found[1]
        return errors

    def _result(self) -> Eigen:
        vectors = self.locked
        assert vectors is not None  # the first round has locked vectors
        products = []
        for vector in vectors.unbind(1):
            products.append(self.meter.product(vector))
        double, moved = vectors.double(), torch.stack(products, 1).double()
        values, turn = torch.linalg.eigh((double.T @ moved + moved.T @ double) / 2)
        order = self._order(values.cpu())
        if self.which == "BE":
            order = order.sort().values
        turn = turn[:, order.to(turn.device)]
        values, double, moved = values[order.to(values.device)], double @ turn, moved @ turn
        residuals = torch.linalg.vector_norm(moved - double * values, dim=0).cpu()
        rounding = _ROUNDING * torch.finfo(self.H.dtype).eps * self.scale
        errors = self._errors(double, moved)
        within = bool((residuals <= self.tol * self.scale + rounding).all())
        return Eigen(
            values=values.cpu(),
            vectors=double.to(self.H.dtype),
            residuals=residuals,
            bound=residuals + errors + rounding,
            converged=within and len(values) == self.k and self.miss <= MISS,
            matvecs=self.meter.done,
            miss_probability=self.miss,
            resolution=self.tol * self.scale + float(residuals.max()),
        )
