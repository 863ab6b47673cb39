"""The generalized Gauss-Newton matrix: the Hessian without the curvature of the network itself."""

from typing import Any

import torch
from torch import nn

from fallline.errors import ArgumentError, LossError
from fallline.landscape.loss.averaging import LossFn, Weight
from fallline.landscape.loss.objective import Objective, Params
from fallline.landscape.operators.checks import check_deterministic, mixed_direction
from fallline.landscape.operators.dependence import check_gradient
from fallline.landscape.operators.doubled import check_precision
from fallline.landscape.operators.hessian import Measured


class GaussNewton(Measured):
    """J'·L''·J, with the Jacobian J of the model's output and the Hessian L'' of the loss with respect to that output.

    It is positive semidefinite if the loss is convex in the output. Cross-entropy and squared error are, and for them
    it is the Fisher matrix. It equals the Hessian if the model is linear in its parameters or fits the data exactly.

    `loss_fn` must call the model once per batch, the model must return one tensor, and the loss may depend on the
    parameters only through that tensor.

    Args:
        model, loss_fn, data, params, weight, mode: as for `Hessian`.

    Raises:
        LossError, ArgumentError, ArgumentTypeError: as for `Hessian`, or the model does not return a single tensor.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> batch = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1)
        >>> G = GaussNewton(model, lambda model, batch: (model(batch[0]) - batch[1]).square().mean(), batch)
        >>> (G @ torch.tensor([1.0, 1.0])).tolist()
        [1.0, 9.0]
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        data: Any,
        params: Params | None = None,
        weight: Weight | None = None,
        mode: str = "eval",
    ) -> None:
        super().__init__(Objective("GaussNewton", model, loss_fn, data, params, weight, mode))
        gradient = self.objective.gradient()
        check_precision(self.objective)
        check_deterministic(self.objective)
        check_gradient(self.objective, mixed_direction(gradient))
        self.objective.recovery.attempt(lambda: self @ torch.zeros(self.shape[0]))  # also times a product
        self.matvecs = 0

    def _product(self, vector: torch.Tensor) -> torch.Tensor:
        return self._mean_product(vector)

    def _mean_product(self, vector: torch.Tensor) -> torch.Tensor:
        objective, parts = self.objective, self.objective.split(vector.to(self.device))
        with objective.measuring():
            return objective.mean(lambda number, batch: self._batch_product(batch, number, parts))

    def _batch_product(self, batch: Any, number: int, parts: list[torch.Tensor]) -> torch.Tensor:
        outputs: list[Any] = []
        handle = self.objective.model.register_forward_hook(lambda module, args, output: outputs.append(output))
        try:
            loss = self.objective.loss(batch, number)
        finally:
            handle.remove()
        if len(outputs) != 1 or not isinstance(outputs[0], torch.Tensor):
            got = f"{len(outputs)} calls" if len(outputs) != 1 else type(outputs[0]).__name__
            raise ArgumentError(f"GaussNewton: model must return one tensor, in one call per batch, got {got}; wrap it")
        output, params = outputs[0], self.objective.params
        (output_grad,) = torch.autograd.grad(loss, output, create_graph=True, allow_unused=True)
        if output_grad is None:
            raise LossError(
                "GaussNewton: loss must depend on the output of the model, got one that does not; use the output"
            )
        # J·v is the derivative of J'·u with respect to u: this needs only backward passes, which every operation has.
        u = torch.zeros_like(output, requires_grad=True)
        vjp = torch.autograd.grad(output, params, u, create_graph=True, allow_unused=True)
        pairs = [(g, v) for g, v in zip(vjp, parts, strict=True) if g is not None and g.requires_grad]
        jvp = torch.autograd.grad([g for g, _ in pairs], u, [v for _, v in pairs])[0] if pairs else torch.zeros_like(u)
        hvp = output_grad  # L''·J·v
        if output_grad.requires_grad:
            (hvp,) = torch.autograd.grad(output_grad, output, jvp, retain_graph=True, allow_unused=True)
        if hvp is None or not output_grad.requires_grad:  # the loss is linear in the output
            hvp = torch.zeros_like(output)
        found = torch.autograd.grad(output, params, hvp, allow_unused=True)
        return self.objective.flatten(
            torch.zeros_like(p) if g is None else g for g, p in zip(found, params, strict=True)
        )
