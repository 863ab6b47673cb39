"""The Hessian of the mean loss of a model, known by its products with vectors."""

import time
from typing import Any

import torch
from torch import nn

from fallline.errors import ArgumentError
from fallline.landscape.loss.averaging import LossFn, Weight
from fallline.landscape.loss.objective import Objective, Params
from fallline.landscape.operators.base import Operator
from fallline.landscape.operators.checks import check_deterministic, choose_product
from fallline.landscape.operators.products import PRODUCTS, Parts, gradients_with_graph, through_graph


class Measured(Operator):
    """An operator that comes from a model and its loss over data.

    Attributes:
        objective: the mean loss.
        mode: "eval" or "train", how the model is run.
    """

    def __init__(self, objective: Objective) -> None:
        for name, p in zip(objective.names, objective.params, strict=True):
            if torch.finfo(p.dtype).bits < 32:
                raise ArgumentError(
                    f"{objective.owner}: parameters must be float32 or float64, got {name} of {p.dtype}, whose two or "
                    "three digits are all noise after a difference; measure copy.deepcopy(model).float()"
                )
        super().__init__(objective.n, objective.dtype, objective.device)
        self.objective, self.mode = objective, objective.mode

    @property
    def loss(self) -> float:
        """The mean loss where it was last measured."""
        return self.objective.value

    def gradient(self) -> torch.Tensor:
        """Return the gradient of the mean loss, of shape (n,), at the parameters of now."""
        return self.objective.gradient()

    def flatten(self, tensors: Any) -> torch.Tensor:
        """Return tensors like the parameters, in their order, as a vector (n,)."""
        return self.objective.flatten(tensors)

    def split(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return a vector (n,) by the names of the parameters, in their shapes."""
        return dict(zip(self.objective.names, self.objective.split(vector), strict=True))


class Hessian(Measured):
    """The matrix of second derivatives of a mean loss by the parameters of a model; nothing of the model changes.

    It is measured at the parameters of the moment of each product. When the data are one batch, the graph of its
    gradient is kept, so that a product costs about two gradients instead of four; it takes the memory of a training
    step twice, until the operator is deleted.

    At construction the gradient is taken over all data, which finds losses that cannot be measured; and one product is
    compared with a finite difference, which finds operations whose second derivative is silently wrong.

    Args:
        model: any module; one in DistributedDataParallel, or compiled, is measured without that, with a warning.
        loss_fn: `loss_fn(model, batch)` returns the mean loss of a batch, a scalar; without autocast, for products in
            half precision have two or three digits, whatever the bounds say.
        data: batches that can be read again: a list, a DataLoader. A tuple, dict or tensor is one batch.
        params: which parameters, themselves or their names, or a mapping with names; those that are trained by default.
        weight: how many items (or tokens) the mean of a batch is over; the rows of its first tensor by default.
        mode: "eval", or "train": with dropout (the same masks in every product) and the statistics of the batch.
        hvp: "auto", "double-backward", "jvp" or "finite-difference".

    Raises:
        LossError: the loss is no scalar, not finite, without a graph, or differs between two evaluations; no data.
        GradientError: `hvp` names a way that this model does not allow, or gradients are sparse.
        ArgumentError, ArgumentTypeError: another argument cannot be used.

    Attributes:
        hvp: the way that is gone.
        disagreement: relative difference to the finite difference, at construction.

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
        began = time.perf_counter()
        check_deterministic(self.objective)
        # Until one has been timed: a product is about four gradients, or two with a kept graph, of three forward passes
        # each (benchmarks/products.py). The gradient above, the first to be taken, is not typical.
        self.seconds = 3 * (2 if self.objective.single else 4) * (time.perf_counter() - began)
        self.hvp, self.disagreement = choose_product(self.objective, gradient, hvp)
        self._kept: list[torch.Tensor] | None = None
        self._key: Any = None

    def _product(self, vector: torch.Tensor) -> torch.Tensor:
        objective, parts = self.objective, self.objective.split(vector)
        try:
            if objective.single and self.hvp == "double-backward":
                gradients = self._gradients()
                with objective.measuring(reads=False):
                    return through_graph(objective, gradients, parts, keep=True)
            product = PRODUCTS[self.hvp]
            with objective.measuring():
                return objective.mean(lambda number, batch: product(objective, batch, parts))
        except BaseException:
            self._kept = None  # an interrupted product may have left half a graph
            raise

    def _gradients(self) -> Parts:
        """Return the gradients of the one batch with their graph, kept while parameters and buffers are the same."""
        key = self._place()
        if self._kept is None or key != self._key:
            self._kept = None  # before the next is built: two graphs might not fit into memory
            with self.objective.measuring():
                _, batch, _ = next(self.objective.batches())
                self._kept, self._key = gradients_with_graph(self.objective, batch), key
        return self._kept

    def _place(self) -> Any:
        """Return what changes when parameters or buffers do; sums, since `.data` is written without a version."""
        tensors = [*self.objective.params, *self.objective.model.buffers()]
        return [(t.data_ptr(), t._version, t.detach().sum().item()) for t in tensors if t.numel()]
