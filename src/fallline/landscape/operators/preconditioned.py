"""The Hessian in the units of an adaptive optimizer's steps."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fallline.errors import ArgumentError
from fallline.landscape.operators.base import Operator, Symmetric, as_operator


class Preconditioned(Operator):
    """P^(-1/2)·H·P^(-1/2) for a diagonal P > 0; its eigenvalues are those of P⁻¹·H.

    Args:
        H: an operator or a symmetric matrix.
        diagonal: the diagonal of P, of shape (n,); Inf keeps a coordinate fixed.

    Raises:
        ArgumentError: the diagonal has the wrong shape or is not positive.

    Example:
        >>> M = Preconditioned(torch.diag(torch.tensor([8.0, 3.0])), torch.tensor([4.0, 1.0]))
        >>> (M @ torch.tensor([1.0, 1.0])).tolist()
        [2.0, 3.0]
    """

    def __init__(self, H: Symmetric, diagonal: torch.Tensor) -> None:
        inner = as_operator("Preconditioned", H)
        if not isinstance(diagonal, torch.Tensor) or diagonal.shape != inner.shape[:1]:
            got = tuple(diagonal.shape) if isinstance(diagonal, torch.Tensor) else type(diagonal).__name__
            raise ArgumentError(f"Preconditioned: diagonal must have shape ({inner.shape[0]},), got {got}; flatten it")
        if not bool((diagonal > 0).all()):
            raise ArgumentError(
                f"Preconditioned: diagonal must be positive, got {diagonal.min().item():g} in it; use eps > 0, "
                "or measure after a step of the optimizer"
            )
        super().__init__(inner.shape[0], inner.dtype, inner.device)
        self.inner, self.seconds = inner, inner.seconds
        self._scale = diagonal.detach().double().rsqrt().to(inner.device, inner.dtype)

    @property
    def eps(self) -> float:
        """Rounding of the products of the inner operator."""
        return self.inner.eps

    def reference(self, vector: torch.Tensor) -> tuple[torch.Tensor, float] | None:
        """Return a more accurate product; see `Operator.reference`."""
        found = self.inner.reference(self._scale * vector)
        return None if found is None else (self._scale * found[0], float(self._scale.max()) * found[1])

    @contextmanager
    def keep_graph(self) -> Iterator[None]:
        """Keep the graph of the inner operator; see `Operator.keep_graph`."""
        with self.inner.keep_graph():
            yield

    def _product(self, vector: torch.Tensor) -> torch.Tensor:
        return self._scale * (self.inner @ (self._scale * vector))
