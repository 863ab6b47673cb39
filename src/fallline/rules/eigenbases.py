"""Functions of whole tensors with which a rule works in the eigenbases of second moments, one basis per dimension.

Shampoo's second moment of dimension k of a gradient G is the running mean of G·Gᵀ, where G is the matrix with a row for
each index of dimension k and a column for each combination of the others (Gupta et al. 2018, arXiv:1802.09568). `merge`
is the limit up to which neighboring dimensions are merged first, or 0 to keep all of them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from fallline.rules.matrices import gram

SMALL = 256  # rows up to which the product with the transpose is computed as a whole


class PowerIteration(NamedTuple):
    """The product of a second moment and its basis, and the order of its columns by estimated eigenvalues."""

    product: torch.Tensor
    order: torch.Tensor


def merged_shape(shape: Sequence[int], merge: int) -> tuple[int, ...]:
    """Return a shape in which neighboring dimensions are merged while their product is at most `merge`.

    Example:
        >>> merged_shape((64, 32, 3, 3), 1000), merged_shape((64, 32, 3, 3), 0)
        ((64, 288), (64, 32, 3, 3))
    """
    if not merge:
        return tuple(shape)
    found, size = [], 1
    for length in shape:
        if size * length <= merge:
            size *= length
        elif size > 1:
            found.append(size)
            size = length
        else:
            found.append(length)
            size = 1
    return tuple(found if size == 1 and found else [*found, size])


def _apply(function: Callable[..., Any], x: Any, *operands: Any, options: tuple[Any, ...] = ()) -> Any:
    """Apply one of `FUNCTIONS` to a tensor and further operands, or record the call."""
    if isinstance(x, torch.Tensor):
        return function(x, *operands, *options)
    return x.call(function.__name__.removeprefix("_"), operands, options)


def second_moment(x: Any, dim: int, merge: int = 0) -> Any:
    """Return X·Xᵀ for the rows of dimension `dim`; a square matrix."""
    return x * x if isinstance(x, float) else _apply(_second_moment, x, options=(dim, merge))


def to_basis(x: Any, basis: Any, dim: int, merge: int = 0) -> Any:
    """Return the coordinates of dimension `dim` in an orthogonal basis, Qᵀ·X."""
    return x * basis if isinstance(x, float) else _apply(_multiply, x, basis, options=(dim, merge, False))


def from_basis(x: Any, basis: Any, dim: int, merge: int = 0) -> Any:
    """Return the inverse of `to_basis`, Q·X."""
    return x * basis if isinstance(x, float) else _apply(_multiply, x, basis, options=(dim, merge, True))


def power_iteration(moment: Any, basis: Any, step: Any, *, frequency: int) -> Any:
    """Return one power iteration of all vectors of a basis; nothing (None) in the steps in which it is not due.

    It is due in the steps 1 + frequency, 1 + 2·frequency, and so on.
    """
    return None if isinstance(moment, float) else _apply(_power_iteration, moment, basis, step, options=(frequency,))


def next_basis(moment: Any, basis: Any, iteration: Any) -> Any:
    """Return the eigenvectors if the basis is new (0), else the orthogonalized power iteration or the old basis.

    The QR decomposition makes the vectors orthogonal. They are sorted by falling eigenvalues, and their signs are
    arbitrary.
    """
    return basis if isinstance(moment, float) else _apply(_next_basis, moment, basis, iteration)


def reorder(x: Any, iteration: Any, dim: int, merge: int = 0) -> Any:
    """Return `x` with dimension `dim` in the order of the columns of a power iteration; `x` itself without one."""
    return x if isinstance(x, float) else _apply(_reorder, x, iteration, options=(dim, merge))


def change_basis(x: Any, old: Any, new: Any, dim: int, merge: int = 0) -> Any:
    """Return coordinates in the old basis as coordinates in the new one, P·X with P = (new basis)ᵀ·(old basis)."""
    return x if isinstance(x, float) else _apply(_change_basis, x, old, new, options=(dim, merge))


def _second_moment(x: torch.Tensor, dim: int, merge: int) -> torch.Tensor:
    folded = x.reshape(merged_shape(x.shape, merge))
    matrix = folded.movedim(dim, 0).reshape(folded.shape[dim], -1)
    return matrix @ matrix.mT if matrix.shape[0] <= SMALL else gram(matrix)


def _multiply(x: torch.Tensor, basis: torch.Tensor, dim: int, merge: int, back: bool) -> torch.Tensor:
    """Return the product of Qᵀ, or of Q, with every vector along a dimension."""
    folded = x.reshape(merged_shape(x.shape, merge))
    if dim == folded.dim() - 1:  # rows are vectors: no copy
        return (folded @ (basis.mT if back else basis)).reshape(x.shape)
    rows = folded.shape[dim]
    stacked = folded.reshape(-1, rows, folded[0].numel() if dim == 0 else _count(folded.shape[dim + 1 :]))
    return ((basis if back else basis.mT) @ stacked).reshape(x.shape)


def _count(shape: Sequence[int]) -> int:
    return torch.Size(shape).numel()


def _power_iteration(moment: torch.Tensor, basis: torch.Tensor, step: float, frequency: int) -> PowerIteration | None:
    if step == 1 or (step - 1) % frequency:
        return None
    product = moment @ basis
    order = (basis * product).sum(0).argsort(descending=True, stable=True)
    return PowerIteration(product, order)


def _next_basis(moment: torch.Tensor, basis: torch.Tensor, iteration: PowerIteration | None) -> torch.Tensor:
    if not basis[0].any():
        return _eigenvectors(moment)
    if iteration is None:
        return basis
    orthogonal: torch.Tensor = torch.linalg.qr(iteration.product[:, iteration.order]).Q
    return orthogonal


def _eigenvectors(moment: torch.Tensor) -> torch.Tensor:
    """Return the eigenvectors by falling eigenvalues; NaN if the matrix is not finite, which LAPACK would refuse."""
    if not moment.isfinite().all():
        return torch.full_like(moment, torch.nan)
    vectors: torch.Tensor
    try:
        vectors = torch.linalg.eigh(moment).eigenvectors
    except RuntimeError:  # no convergence in float32
        vectors = torch.linalg.eigh(moment.double()).eigenvectors.to(moment.dtype)
    return vectors.flip(1)


def _reorder(x: torch.Tensor, iteration: PowerIteration | None, dim: int, merge: int) -> torch.Tensor:
    if iteration is None:
        return x
    return x.reshape(merged_shape(x.shape, merge)).index_select(dim, iteration.order).reshape(x.shape)


def _change_basis(x: torch.Tensor, old: torch.Tensor, new: torch.Tensor, dim: int, merge: int) -> torch.Tensor:
    return x if new is old else _multiply(x, old.mT @ new, dim, merge, False)


# The functions by their names in recorded calls.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__.removeprefix("_"): function
    for function in (_second_moment, _multiply, _power_iteration, _next_basis, _reorder, _change_basis)
}
