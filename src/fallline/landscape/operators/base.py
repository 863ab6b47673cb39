"""Base class of all operators: `@`, a count of the products, and conversion to SciPy."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any, ClassVar, Protocol

import torch

from fallline.errors import ArgumentError
from fallline.landscape.progress import Progress, Step

_ASYMMETRY = 1e4  # allowed asymmetry, in ulps of the largest element: rounding makes autograd Hessians asymmetric


class Symmetric(Protocol):
    """Input of the solvers: an operator of this package, or a symmetric matrix as a tensor."""

    @property
    def shape(self) -> Any:
        """(n, n)."""

    def __matmul__(self, vector: Any) -> Any: ...


class Operator(ABC):
    """A symmetric n × n matrix that is represented by its products with vectors.

    The solvers of `fallline.landscape` are methods too: `H.eigsh(3)` is `eigsh(H, 3)`.

    Attributes:
        shape: (n, n).
        dtype, device: dtype and device of the vectors.
        matvecs: number of products computed so far.
        largest: largest norm of a product so far, relative to that of its vector.
        seconds: time of the last product; None before the first.
    """

    classify_point: ClassVar[Callable[..., Any]]
    eigsh: ClassVar[Callable[..., Any]]
    sharpness: ClassVar[Callable[..., Any]]
    spectral_density: ClassVar[Callable[..., Any]]
    trace: ClassVar[Callable[..., Any]]

    def __init__(self, n: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.dtype, self.device = (n, n), dtype, device
        self.matvecs = 0
        self.largest = 0.0
        self.seconds: float | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.shape[0]:,} parameters, {str(self.dtype).removeprefix('torch.')}>"

    @abstractmethod
    def _product(self, vector: torch.Tensor) -> torch.Tensor:
        """Return the product with a vector of shape (n,), which has the dtype and device of the operator."""

    @property
    def eps(self) -> float:
        """Rounding of the products, relative to the largest one."""
        return float(torch.finfo(self.dtype).eps)

    def reference(self, vector: torch.Tensor) -> tuple[torch.Tensor, float] | None:
        """Return a more accurate product, and a bound of its error; None if products have the precision of the dtype.

        The solvers that state error bounds call it with the vectors that they return.
        """
        return None

    @contextmanager
    def keep_graph(self) -> Iterator[None]:
        """Keep the graph that the products share, if they share one, until the end of the block.

        Within the block, products are those at the point where the first of them was computed: do not change the model
        or the data there. Every solver of this package, and a product with a matrix, is such a block.
        """
        yield

    def __matmul__(self, vector: torch.Tensor) -> torch.Tensor:
        """Return the product with a vector (n,) or with a matrix (n, k), which counts as k products.

        Raises:
            ArgumentError: the shape does not match, or a value is not finite.
        """
        name, n = type(self).__name__, self.shape[0]
        if not isinstance(vector, torch.Tensor) or vector.dim() not in (1, 2) or len(vector) != n:
            got = tuple(vector.shape) if isinstance(vector, torch.Tensor) else type(vector).__name__
            raise ArgumentError(f"{name}: a vector must have shape ({n},) or ({n}, k), got {got}; flatten it")
        vector = vector.detach().to(self.device, self.dtype)
        if not math.isfinite(vector.sum()) and not bool(vector.isfinite().all()):  # the sum is faster to check
            raise ArgumentError(f"{name}: a vector must be finite, got NaN or Inf; check how it was computed")
        if vector.dim() == 2:
            with self.keep_graph():
                columns = [self @ column for column in vector.unbind(1)]
            return torch.stack(columns, 1) if columns else vector
        began = time.perf_counter()
        result = self._product(vector)
        self.seconds = time.perf_counter() - began
        self.matvecs += 1
        length = float(torch.linalg.vector_norm(vector))
        if length > 0:
            self.largest = max(self.largest, float(torch.linalg.vector_norm(result)) / length)
        return result

    def to_scipy(self) -> Any:
        """Return a `scipy.sparse.linalg.LinearOperator`, whose vectors are NumPy arrays. Requires SciPy.

        Call the solvers of SciPy within `keep_graph()`, so that they do not build a graph for every product.

        Example:
            >>> import scipy.sparse.linalg
            >>> H = Dense(torch.diag(torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)))
            >>> round(scipy.sparse.linalg.eigsh(H.to_scipy(), k=1)[0].item(), 6)
            3.0
        """
        from importlib import import_module

        def product(vector: Any) -> Any:
            return (self @ torch.as_tensor(vector)).cpu().numpy()

        linalg = import_module("scipy.sparse.linalg")  # imported here because only this method requires SciPy
        number = torch.empty((), dtype=self.dtype)
        return linalg.LinearOperator(
            self.shape, matvec=product, rmatvec=product, matmat=product, dtype=number.numpy().dtype
        )


class Meter:
    """Counts the products of a measurement and reports its progress.

    Args:
        H: the operator.
        total: largest number of products.
        vectors: number of vectors in memory at a time.
        progress: callback that receives a `Step` at construction and after every product, or None.
    """

    def __init__(self, H: Operator, total: int, vectors: int, progress: Progress | None) -> None:
        self.H, self.total, self.done, self._progress = H, total, 0, progress
        self._bytes = vectors * H.shape[0] * torch.finfo(H.dtype).bits // 8
        self._report()

    def product(self, vector: torch.Tensor) -> torch.Tensor:
        """Return the product with a vector, and count it."""
        result = self.H @ vector
        self.done += 1
        self._report()
        return result

    def _report(self) -> None:
        if self._progress is not None:
            seconds = None if self.H.seconds is None else self.H.seconds * (self.total - self.done)
            self._progress(Step(self.done, self.total, seconds, self._bytes))


def seeded(owner: str, seed: Any) -> torch.Generator:
    """Return a random number generator with a seed.

    Raises:
        ArgumentError: the seed is not an integer of at most 64 bits.
    """
    if not isinstance(seed, Integral) or not -(2**63) <= int(seed) < 2**64:
        raise ArgumentError(f"{owner}: seed must be an integer of at most 64 bits, got {seed=!r}; a typical value is 0")
    return torch.Generator().manual_seed(int(seed))


class Dense(Operator):
    """A symmetric matrix, stored as a dense tensor, as an operator.

    Args:
        matrix: tensor of shape (n, n), float32 or float64, symmetric up to rounding.

    Raises:
        ArgumentError: the matrix does not satisfy this, or is not finite.

    Example:
        >>> (Dense(torch.eye(2)) @ torch.tensor([1.0, 2.0])).tolist()
        [1.0, 2.0]
    """

    def __init__(self, matrix: torch.Tensor) -> None:
        if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
            raise ArgumentError(f"Dense: matrix must be square and real, got shape={tuple(matrix.shape)}; pass (n, n)")
        if matrix.dtype not in (torch.float32, torch.float64):
            raise ArgumentError(
                f"Dense: matrix must be float32 or float64, got {matrix.dtype}; convert it with .double()"
            )
        if not bool(matrix.isfinite().all()):
            raise ArgumentError("Dense: matrix must be finite, got NaN or Inf; check how it was computed")
        skew = float((matrix - matrix.T).abs().max())
        if skew > _ASYMMETRY * torch.finfo(matrix.dtype).eps * float(matrix.abs().max()):
            raise ArgumentError(
                f"Dense: matrix must be symmetric, got elements that differ by up to {skew:.2g} from the transpose; "
                "pass (A + A.T) / 2"
            )
        super().__init__(len(matrix), matrix.dtype, matrix.device)
        self._matrix = matrix.detach()

    def _product(self, vector: torch.Tensor) -> torch.Tensor:
        return self._matrix @ vector


def as_operator(owner: str, matrix: Symmetric) -> Operator:
    """Return an operator as it is, or a tensor wrapped in `Dense`.

    Raises:
        ArgumentError: `matrix` is neither.
    """
    if isinstance(matrix, Operator):
        return matrix
    if isinstance(matrix, torch.Tensor):
        return Dense(matrix)
    raise ArgumentError(
        f"{owner}: H must be a Hessian or another operator, got {type(matrix).__name__}; pass an operator or a tensor"
    )
