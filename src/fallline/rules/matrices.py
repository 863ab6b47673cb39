"""Functions of whole matrices that an update rule may call; they make no sense for single elements.

A tensor with more than two dimensions, such as the weight of a convolution, is a matrix with a row for each entry of
its first dimension. A vector is a matrix with one column, and a number a matrix of one element.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from fallline.dtensor import is_sharded, place_like

# Elements from which matrices are multiplied one by one, by halves. For 768 × 3,072 in bfloat16 this takes 29 ms (39 ms
# with whole products, 36 ms in a batch of three); for 768 × 768, 16 ms (15 ms, 14 ms). Two cores with AMX.
LARGE = 1 << 20
# Columns per row from which a large matrix is multiplied by a polynomial of its Gram matrix, and the iterations that
# one polynomial combines. For 768 × 3,072 in bfloat16 this takes 44 ms (75 ms one by one); for 768 × 768, 19 ms (17
# ms). The rounding error, relative to the norm of the result, stays within 1.6 times that of single iterations for this
# shape. It is at most 0.05 for smaller ones where singular values are alike, and no larger than that of single
# iterations where they fall fast. If the first polynomial combines four iterations, or the second three, it grows up to
# tenfold.
WIDE = 2.5
COMBINED = (3, 2)
BLOCK = 1 << 18  # elements whose squares are summed together, because they stay in the cache


def newton_schulz(x: Any, eps: Any, *, coefficients: tuple[float, ...], steps: int, dtype: str, blocks: int = 1) -> Any:
    """Return the matrix with the singular vectors of `x` and singular values near 1.

    The iteration X ← a·X + b·(X·Xᵀ)·X + c·(X·Xᵀ)²·X starts at X/‖X‖. With Muon's coefficients, singular values end
    between 0.7 and 1.2 (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

    Args:
        x: the matrix.
        eps: lower limit of the norm ‖X‖ by which the matrix is divided.
        coefficients: a, b and c.
        steps: number of iterations.
        dtype: dtype of the products, such as "bfloat16".
        blocks: number of blocks of rows that are matrices of their own, such as 3 for the joint weight of queries,
            keys and values.
    """
    if isinstance(x, torch.Tensor):
        return orthogonalize([x], [eps], coefficients, steps, dtype, blocks)[0]
    if isinstance(x, float):
        return orthogonalize([torch.tensor([[x]])], [eps], coefficients, steps, dtype, blocks)[0].item()
    return x.newton_schulz(eps, coefficients, steps, dtype, blocks)


def scale_by_shape(x: Any, *, convention: str | None, blocks: int = 1) -> Any:
    """Return an orthogonal matrix times the factor that a convention derives from its numbers of rows and columns.

    Args:
        x: the matrix.
        convention: "original" (or None), √max(1, rows/columns); or "match_rms_adamw", 0.2·√max(rows, columns), with
            which the root mean square of an update is that of AdamW (Liu et al. 2025, arXiv:2502.16982, section 2.2).
        blocks: as in `newton_schulz`.
    """
    if isinstance(x, torch.Tensor):
        return x * shape_factor(x.shape, convention, blocks)
    if isinstance(x, float):
        return x * shape_factor((1, 1), convention, blocks)
    return x.scale_by_shape(convention, blocks)


def mean(x: Any, dim: int | None = None) -> Any:
    """Return the mean of the elements along a dimension, whose length becomes 1, or the mean of all elements."""
    return mean_square(x, dim, square=False)


def mean_square(x: Any, dim: int | None = None, *, square: bool = True) -> Any:
    """Return the mean of the squared elements along a dimension, whose length becomes 1, or that of all elements.

    Args:
        x: the tensor.
        dim: −1 for the mean of each row, −2 for that of each column; 0 for that of each row of the matrix to which a
            tensor with more dimensions is flattened, whose other lengths become 1; None for all elements.
        square: False for the mean of the elements themselves.
    """
    if isinstance(x, torch.Tensor):
        return reduce_mean(x, dim, square)
    if isinstance(x, float):
        return x * x if square else x
    return x.mean_square(dim, square)


def reduce_mean(x: torch.Tensor, dim: int | None, square: bool) -> torch.Tensor:
    """Return the mean of `mean_square`; its rounding does not depend on the number of threads."""
    if dim == 0 and x.dim():
        rows = x.reshape(x.shape[0], -1)
        return reduce_mean(rows, -1, square).reshape(-1, *(1 for _ in x.shape[1:]))
    if dim == 0:
        return x.square() if square else x
    if dim == -2 and square and x.shape[-2] > 1:  # a norm along columns takes six times as long
        together = max(1, BLOCK // max(x.shape[-1], 1))
        sums = [part.square().sum(-2, keepdim=True) for part in x.split(together, -2)]
        return torch.stack(sums).sum(0) / x.shape[-2]
    if dim is not None and square:  # without a tensor of all squares
        norms: torch.Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
        return norms.square() / x.shape[dim]
    if dim is not None:
        return x.mean(dim, keepdim=True)
    rows = (x.square() if square else x) if x.dim() < 2 else reduce_mean(x, -1, square)
    return (rows.double().sum() / rows.numel()).to(x.dtype)


def shape_factor(shape: Sequence[int], convention: str | None, blocks: int = 1) -> float:
    """Return the factor of `scale_by_shape` for a tensor of this shape.

    Example:
        >>> shape_factor((64, 16), "original"), shape_factor((64, 16, 5, 5), "match_rms_adamw")
        (2.0, 4.0)
    """
    rows, columns = _matrix_shape(shape, blocks)
    if convention == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1, rows / columns)) if columns else 1.0


def orthogonalize(
    tensors: Sequence[torch.Tensor],
    eps: Sequence[float],
    coefficients: tuple[float, ...],
    steps: int,
    dtype: str,
    blocks: int = 1,
) -> list[torch.Tensor]:
    """Apply `newton_schulz` to every tensor; small matrices of one shape are multiplied as a batch.

    A DTensor is gathered in `dtype`, so each process receives the elements of the matrix that it lacks once, and
    computes the whole result.
    """
    shapes = [_matrix_shape(tensor.shape, blocks) for tensor in tensors]
    batches: dict[Any, list[int]] = {}
    for index, (shape, least) in enumerate(zip(shapes, eps, strict=True)):
        alone = index if shape[0] * shape[1] >= LARGE else None
        batches.setdefault((shape, least, alone), []).append(index)
    results: dict[int, torch.Tensor] = {}
    for (shape, least, alone), members in batches.items():
        wholes: list[Any] = [tensors[i].to(getattr(torch, dtype)) for i in members]
        wholes = [whole.full_tensor() if is_sharded(whole) else whole for whole in wholes]
        batch = torch.cat([whole.reshape(blocks, *shape) for whole in wholes])
        parts = [batch] if alone is None else batch.unbind()
        new = torch.cat([_iterate(x, least, coefficients, steps).reshape(-1, *shape) for x in parts])
        for i, result in zip(members, new.split(blocks), strict=True):
            own = result.reshape(tensors[i].shape).to(tensors[i].dtype)
            results[i] = place_like(own, tensors[i]) if is_sharded(tensors[i]) else own
    return [results[i] for i in range(len(tensors))]


def _iterate(x: torch.Tensor, eps: float, coefficients: tuple[float, ...], steps: int) -> torch.Tensor:
    """Orthogonalize a large matrix, or a batch of small ones of shape (batch, rows, columns)."""
    a, b, c = coefficients
    gram_of, add_product = (gram, torch.addmm) if x.dim() == 2 else (lambda y: y @ y.mT, torch.baddbmm)
    tall = x.shape[-2] > x.shape[-1]
    if tall:  # the products with the smaller side are the cheaper ones
        x = x.mT.contiguous()
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=eps)
    if x.dim() == 2 and x.shape[1] >= WIDE * x.shape[0]:
        x = _iterate_gram(x, coefficients, steps)
    else:
        for _ in range(steps):
            product = gram_of(x)
            x = add_product(x, add_product(product, product, product, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _iterate_gram(x: torch.Tensor, coefficients: tuple[float, ...], steps: int) -> torch.Tensor:
    """Make the iterations on the Gram matrix G = X·Xᵀ, and multiply X by the polynomial of G that several give.

    An iteration multiplies X by P = a·I + b·G + c·G², and G by P². The products of small square matrices are cheaper
    than those with X, but G in half precision loses what belongs to small singular values, so it is computed again.
    """
    a, b, c = coefficients
    done = 0
    while done < steps:
        combined = min(COMBINED[0] if not done else COMBINED[1], steps - done)
        product = gram(x)
        factor = torch.addmm(product, product, product, beta=b, alpha=c)  # P − a·I
        polynomial = factor.clone()
        polynomial.diagonal().add_(a)
        for _ in range(combined - 1):
            half = torch.addmm(product, factor, product, beta=a)
            product = torch.addmm(half, factor, half, beta=a)
            factor = torch.addmm(product, product, product, beta=b, alpha=c)
            polynomial = torch.addmm(polynomial, factor, polynomial, beta=a)
        x, done = polynomial @ x, done + combined
    return x


def gram(x: torch.Tensor) -> torch.Tensor:
    """Return X·Xᵀ, without computing the block above the diagonal, which is the one below it, transposed."""
    half = x.shape[0] // 2
    upper, lower = x[:half], x[half:]
    product = x.new_empty(x.shape[0], x.shape[0])
    product[:half, :half] = upper @ upper.mT
    product[half:, half:] = lower @ lower.mT
    product[half:, :half] = lower @ upper.mT
    product[:half, half:] = product[half:, :half].mT
    return product


def _matrix_shape(shape: Sequence[int], blocks: int) -> tuple[int, int]:
    rows = shape[0] if shape else 1
    return rows // blocks, math.prod(shape[1:])
