"""The Hessian of the mean loss of a model, represented by its products with vectors."""

import itertools
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fallline.errors import ArgumentError, LossError
from fallline.landscape.loss.averaging import LossFn, Weight
from fallline.landscape.loss.objective import Objective, Params
from fallline.landscape.operators.base import Operator
from fallline.landscape.operators.checks import check_deterministic, choose_product, mixed_direction
from fallline.landscape.operators.dependence import check_gradient
from fallline.landscape.operators.doubled import check_precision, doubled, precision
from fallline.landscape.operators.products import PRODUCTS, Parts, gradients_with_graph, through_graph

_ROUNDING = 30.0  # ulps of the largest product that a product loses in low precision


class Measured(Operator):
    """An operator defined by a model and its mean loss over data.

    Attributes:
        objective: the mean loss.
        mode: "eval" or "train", the mode in which the model runs.
    """

    def __init__(self, objective: Objective) -> None:
        for name, p in zip(objective.names, objective.params, strict=True):
            if torch.finfo(p.dtype).bits < 32:
                raise ArgumentError(
                    f"{objective.owner}: parameters must be float32 or float64, got {name} of {p.dtype}, whose two or "
                    "three digits do not suffice for curvature; measure copy.deepcopy(model).float()"
                )
        super().__init__(objective.n, objective.dtype, objective.device)
        self.objective, self.mode = objective, objective.mode

    @property
    def loss(self) -> float:
        """The mean loss at the current parameters, computed by a forward pass over the data."""
        return self.objective.mean_loss()

    def gradient(self) -> torch.Tensor:
        """Return the gradient of the mean loss at the current parameters, of shape (n,)."""
        return self.objective.gradient()

    @property
    def eps(self) -> float:
        """Rounding of the products, by the least precise type in which the loss was computed at construction."""
        return self.objective.eps

    @abstractmethod
    def _mean_product(self, vector: torch.Tensor) -> torch.Tensor:
        """Return the product with a vector (n,), computed in the precision of the objective."""

    def _remainder(self, vector: torch.Tensor) -> float:
        """Return the error of a product that is computed in float64."""
        return 0.0

    @property
    def _inexact(self) -> bool:
        """Whether products have errors beyond the rounding of their dtype."""
        return torch.finfo(precision(self.objective)).eps > torch.finfo(self.dtype).eps

    def reference(self, vector: torch.Tensor) -> tuple[torch.Tensor, float] | None:
        """Return the product computed in float64, and a bound of its error; None if products have no further error."""
        if not self._inexact:
            return None
        try:
            with doubled(self.objective):
                return self._mean_product(vector.double()), self._remainder(vector.double())
        except (RuntimeError, TypeError, LossError):  # not computable in float64
            product = self._mean_product(vector)
            eps = torch.finfo(precision(self.objective)).eps
            return product, self._remainder(vector) + _ROUNDING * eps * self.largest

    def flatten(self, tensors: Any) -> torch.Tensor:
        """Return tensors shaped like the parameters, in the same order, as a vector (n,)."""
        return self.objective.flatten(tensors)

    def split(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return a vector (n,) as a dict from parameter names to tensors shaped like the parameters."""
        return dict(zip(self.objective.names, self.objective.split(vector), strict=True))


class Hessian(Measured):
    """The matrix of second derivatives of a mean loss with respect to the parameters of a model.

    Each product is computed at the current state of the model, and the model is left unchanged. If the data are a
    single batch, the solvers keep the graph of its gradient until they return, so that a product costs about two
    gradients instead of four, and the graph takes twice the memory of a training step. Call products of your own within
    `keep_graph()` to do the same.

    At construction, the gradient over all data is computed, which detects losses that cannot be measured, and one
    product is compared with a finite difference, which detects operations whose second derivative is silently wrong.

    Args:
        model: any module. A DistributedDataParallel wrapper or compilation is bypassed, with a warning.
        loss_fn: `loss_fn(model, batch)` returns the mean loss of a batch, a scalar. It should not use autocast, because
            products in half precision have only two or three digits; error bounds contain this and are wide.
        data: batches that can be read repeatedly: a list or a DataLoader. A tuple, dict or tensor is one batch.
        params: parameters or their names, or a mapping from names to parameters; by default all trainable ones.
        weight: `weight(batch)` returns the number of items (or tokens) that the mean loss of a batch averages over; by
            default the number of rows of its first tensor.
        mode: "eval", or "train" to use dropout (with the same masks in every product) and batch statistics.
        hvp: "auto", "double-backward", "jvp" or "finite-difference".

    Raises:
        LossError: the loss is not a scalar, is not finite, has no graph, differs between two evaluations, or changes
            with a parameter of which autograd returns no gradient; or there are no data.
        GradientError: `hvp` names a method that does not work for this model, or gradients are sparse.
        ArgumentError, ArgumentTypeError: another argument is invalid.

    Attributes:
        hvp: the method used.
        disagreement: relative difference from the finite difference, measured at construction.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1)
        >>> H = Hessian(model, lambda model, batch: (model(batch[0]) - batch[1]).square().mean(), (x, y))
        >>> (H @ torch.tensor([1.0, 1.0])).tolist(), H.matvecs  # the mean of 2·x·xᵀ
        ([1.0, 9.0], 1)
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        data: Any,
        params: Params | None = None,
        weight: Weight | None = None,
        mode: str = "eval",
        hvp: str = "auto",
    ) -> None:
        if hvp != "auto" and hvp not in PRODUCTS:
            raise ArgumentError(f"Hessian: hvp must be one of auto, {', '.join(PRODUCTS)}, got {hvp=}; leave it out")
        super().__init__(Objective("Hessian", model, loss_fn, data, params, weight, mode))
        gradient = self.objective.gradient()
        check_precision(self.objective)
        began = time.perf_counter()
        check_deterministic(self.objective)
        # Estimate until a product has been timed: it costs about four gradients, or two with a kept graph, of three
        # forward passes each (benchmarks/products.py). The first gradient, computed above, takes an untypical time.
        self.seconds = 3 * (2 if self.objective.single else 4) * (time.perf_counter() - began)
        vector = mixed_direction(gradient)
        check_gradient(self.objective, vector)
        self.hvp, self.disagreement = choose_product(self.objective, vector, hvp)
        self._depth = 0  # number of `keep_graph` blocks that have been entered
        self._kept: list[torch.Tensor] | None = None
        self._several = False  # whether the data of this block have more than one batch, so that no graph is kept

    @contextmanager
    def keep_graph(self) -> Iterator[None]:
        """Keep the graph of the gradient until the end of the block, if the data are a single batch.

        A product then costs about two gradients instead of four. Nothing is kept outside of a block, because a loss may
        read anything: frozen weights, attributes, global variables. Do not change any of it within the block.

        Example:
            >>> model, x = nn.Linear(1, 1, bias=False), torch.ones(1, 1)
            >>> H = Hessian(model, lambda model, x: model(x).pow(2).mean(), x)
            >>> with H.keep_graph():
            ...     products = [H @ torch.tensor([v]) for v in (1.0, 2.0)]
            >>> [product.item() for product in products]
            [2.0, 4.0]
        """
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._kept, self._several = None, False

    def _product(self, vector: torch.Tensor) -> torch.Tensor:
        objective, parts = self.objective, self.objective.split(vector)
        try:
            if self._depth and self.hvp == "double-backward" and (gradients := self._gradients()) is not None:
                with objective.measuring(reads=False):
                    return through_graph(objective, gradients, parts, keep=True)
            return self._mean_product(vector)
        except BaseException:
            self._kept = None  # an interrupted product may have freed part of the graph
            raise

    def _mean_product(self, vector: torch.Tensor, **options: float) -> torch.Tensor:
        objective, parts, product = self.objective, self.objective.split(vector), PRODUCTS[self.hvp]
        with objective.measuring():
            return objective.mean(lambda number, batch: product(objective, batch, parts, **options))

    @property
    def eps(self) -> float:
        """Rounding of the products; that of finite differences is the power 2/3 of that of the gradients."""
        return super().eps ** (2 / 3) if self.hvp == "finite-difference" else super().eps

    @property
    def _inexact(self) -> bool:
        return self.hvp == "finite-difference" or super()._inexact

    def _remainder(self, vector: torch.Tensor) -> float:
        if self.hvp != "finite-difference":
            return 0.0
        # Half the step has a quarter of the truncation error and twice the rounding error.
        change = self._mean_product(vector) - self._mean_product(vector, shrink=0.5)
        return 3 * float(torch.linalg.vector_norm(change))

    def _gradients(self) -> Parts | None:
        """Return the gradients of the only batch with their graph; None if there are several batches."""
        if self._kept is None and not self._several:
            with self.objective.measuring():
                batches = list(itertools.islice(self.objective.batches(), 2))
                self._several = len(batches) > 1
                if not self._several:
                    self._kept = gradients_with_graph(self.objective, batches[0][1])
        return self._kept
