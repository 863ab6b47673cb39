"""The generalised Gauss-Newton matrix: the Hessian without the curvature of the network itself."""

from typing import Any

import torch
from torch import nn

from fallline.errors import ArgumentError, LossError
from fallline.landscape.loss.averaging import LossFn, Weight
from fallline.landscape.loss.objective import Objective, Params
from fallline.landscape.operators.checks import check_deterministic
from fallline.landscape.operators.hessian import Measured


class GaussNewton(Measured):
    """J'·L''·J, where J is the Jacobian of the model's output and L'' the Hessian of the loss by that output.

    It is positive semidefinite where the loss is convex in the output, as cross-entropy and squared errors are, and for
    these the Fisher matrix. It equals the Hessian where the model is linear in its parameters, or fits exactly.

    The output is what the model returns when `loss_fn` calls it: one tensor, by one call a batch, and the loss may
    depend on the parameters through it alone.

    Args:
        model, loss_fn, data, params, weight, mode: as for `Hessian`.

    Raises:
        LossError, ArgumentError, ArgumentTypeError: as for `Hessian`, or the model returns no single tensor.

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
        self.objective.gradient()
        check_deterministic(self.objective)
        self.objective.recovery.attempt(lambda: self @ torch.zeros(self.shape[0]))  # which times a product, too
        self.matvecs = 0

    def _product(self, vector: torch.Tensor) -> torch.Tensor:
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
            raise ArgumentError(f"GaussNewton: model must return one tensor, in one call a batch, got {got}; wrap it")
        output, params = outputs[0], self.objective.params
        (slope,) = torch.autograd.grad(loss, output, create_graph=True, allow_unused=True)
        if slope is None:
            raise LossError("GaussNewton: loss must depend on what the model returns, got one that does not; use it")
        # J·v, as the derivative by u of J'·u: backward passes alone, which every operation has.
        u = torch.zeros_like(output, requires_grad=True)
        pulled = torch.autograd.grad(output, params, u, create_graph=True, allow_unused=True)
        pairs = [(g, v) for g, v in zip(pulled, parts, strict=True) if g is not None and g.requires_grad]
        moved = (
            torch.autograd.grad([g for g, _ in pairs], u, [v for _, v in pairs])[0] if pairs else torch.zeros_like(u)
        )
        bent = slope
        if slope.requires_grad:
            (bent,) = torch.autograd.grad(slope, output, moved, retain_graph=True, allow_unused=True)
        if bent is None or not slope.requires_grad:  # a loss that is linear in the output
            bent = torch.zeros_like(output)
        found = torch.autograd.grad(output, params, bent, allow_unused=True)
        return self.objective.flatten(
            torch.zeros_like(p) if g is None else g for g, p in zip(found, params, strict=True)
        )
