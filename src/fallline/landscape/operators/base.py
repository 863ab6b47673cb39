"""What all operators share: `@`, a count of the products, and the way out to SciPy."""

import math
import time
from abc import ABC, abstractmethod
from numbers import Integral
from typing import Any, Protocol

import torch

from fallline.errors import ArgumentError
from fallline.landscape.progress import Progress, Step

_ASYMMETRY = 1e4  # ulps of the largest element that a matrix may be off by: Hessians by autograd are, by rounding


class Symmetric(Protocol):
    """What the solvers take: an operator of this package, or a symmetric matrix as a tensor."""

    @property
    def shape(self) -> Any:
        """(n, n)."""

    def __matmul__(self, vector: Any) -> Any: ...


class Operator(ABC):
    """A symmetric n × n matrix that is known by its products with vectors.

    Attributes:
        shape: (n, n).
        dtype, device: of the vectors.
        matvecs: products so far.
        seconds: what the last product took; None before the first.
    """

    def __init__(self, n: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.dtype, self.device = (n, n), dtype, device
        self.matvecs = 0
        self.seconds: float | None = None

    @abstractmethod
    def _product(self, vector: torch.Tensor) -> torch.Tensor:
        """Return the product with a vector of shape (n,), of this dtype and on this device."""

    def __matmul__(self, vector: torch.Tensor) -> torch.Tensor:
        """Return the product with a vector (n,), or with the columns of a matrix (n, k), each of which counts.

        Raises:
            ArgumentError: the shape does not fit, or a number is not finite.
        """
        name, n = type(self).__name__, self.shape[0]
        if not isinstance(vector, torch.Tensor) or vector.dim() not in (1, 2) or len(vector) != n:
            got = tuple(vector.shape) if isinstance(vector, torch.Tensor) else type(vector).__name__
            raise ArgumentError(f"{name}: a vector must have shape ({n},) or ({n}, k), got {got}; flatten it")
        vector = vector.detach().to(self.device, self.dtype)
        if not math.isfinite(vector.sum()) and not bool(vector.isfinite().all()):  # a finite sum is quicker to see
            raise ArgumentError(f"{name}: a vector must be finite, got NaN or Inf in it; look where it comes from")
        if vector.dim() == 2:
            columns = [self @ column for column in vector.unbind(1)]
            return torch.stack(columns, 1) if columns else vector
        began = time.perf_counter()
        result = self._product(vector)
        self.seconds = time.perf_counter() - began
        self.matvecs += 1
        return result

    def to_scipy(self) -> Any:
        """Return the operator for `scipy.sparse.linalg`, whose vectors are NumPy arrays; needs SciPy.

        Example:
            >>> import scipy.sparse.linalg
            >>> H = Dense(torch.diag(torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)))
            >>> round(scipy.sparse.linalg.eigsh(H.to_scipy(), k=1)[0].item(), 6)
            3.0
        """
        from importlib import import_module

        def product(vector: Any) -> Any:
            return (self @ torch.as_tensor(vector)).cpu().numpy()

        linalg = import_module("scipy.sparse.linalg")  # landscape needs no SciPy: only who asks for this does
        number = torch.empty((), dtype=self.dtype)
        return linalg.LinearOperator(
            self.shape, matvec=product, rmatvec=product, matmat=product, dtype=number.numpy().dtype
        )


class Meter:
    """Counts the products of a measurement, and tells of them.

    Args:
        H: the operator.
        total: products that it takes at most.
        vectors: how many of its vectors are held at a time.
        progress: told of every product, and now.
    """

    def __init__(self, H: Operator, total: int, vectors: int, progress: Progress | None) -> None:
        self.H, self.total, self.done, self._progress = H, total, 0, progress
        self._bytes = vectors * H.shape[0] * torch.finfo(H.dtype).bits // 8
        self._tell()

    def product(self, vector: torch.Tensor) -> torch.Tensor:
        """Return the product with a vector, counted."""
        result = self.H @ vector
        self.done += 1
        self._tell()
        return result

    def _tell(self) -> None:
        if self._progress is not None:
            seconds = None if self.H.seconds is None else self.H.seconds * (self.total - self.done)
            self._progress(Step(self.done, self.total, seconds, self._bytes))


def seeded(owner: str, seed: Any) -> torch.Generator:
    """Return a generator of random numbers with a seed.

    Raises:
        ArgumentError: the seed is none.
    """
    if not isinstance(seed, Integral) or not -(2**63) <= int(seed) < 2**64:
        raise ArgumentError(f"{owner}: seed must be a whole number of at most 64 bits, got {seed=!r}; 0 is usual")
    return torch.Generator().manual_seed(int(seed))


class Dense(Operator):
    """A symmetric matrix that is there in full, as an operator.

    Args:
        matrix: of shape (n, n), float32 or float64, symmetric up to rounding.

    Raises:
        ArgumentError: it is not.

    Example:
        >>> (Dense(torch.eye(2)) @ torch.tensor([1.0, 2.0])).tolist()
        [1.0, 2.0]
    """

    def __init__(self, matrix: torch.Tensor) -> None:
        if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
            raise ArgumentError(f"Dense: matrix must be square and real, got shape={tuple(matrix.shape)}; pass (n, n)")
        if matrix.dtype not in (torch.float32, torch.float64):
            raise ArgumentError(
                f"Dense: matrix must be float32 or float64, got {matrix.dtype}; convert it by .double()"
            )
        if not bool(matrix.isfinite().all()):
            raise ArgumentError("Dense: matrix must be finite, got NaN or Inf in it; look where it comes from")
        skew = float((matrix - matrix.T).abs().max())
        if skew > _ASYMMETRY * torch.finfo(matrix.dtype).eps * float(matrix.abs().max()):
            raise ArgumentError(
                f"Dense: matrix must be symmetric, got elements up to {skew:.2g} apart from their mirror image; "
                "pass (A + A.T) / 2"
            )
        super().__init__(len(matrix), matrix.dtype, matrix.device)
        self._matrix = matrix.detach()

    def _product(self, vector: torch.Tensor) -> torch.Tensor:
        return self._matrix @ vector


def as_operator(owner: str, matrix: Symmetric) -> Operator:
    """Return an operator: the one that is given, or a tensor as one.

    Raises:
        ArgumentError: it is neither.
    """
    if isinstance(matrix, Operator):
        return matrix
    if isinstance(matrix, torch.Tensor):
        return Dense(matrix)
    raise ArgumentError(f"{owner}: H must be a Hessian or another operator, got {type(matrix).__name__}; build one")
