"""The generalized Gauss-Newton matrix: the Hessian without the curvature of the network itself."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fallline.errors import ArgumentError, ArgumentTypeError, LossError
from fallline.landscape.loss.averaging import LossFn, Weight, describe_value
from fallline.landscape.loss.objective import Objective, Params
from fallline.landscape.operators.checks import check_deterministic, mixed_direction
from fallline.landscape.operators.dependence import check_gradient
from fallline.landscape.operators.doubled import check_precision
from fallline.landscape.operators.hessian import Measured

_ROUNDING = 100.0  # ulps by which the gradient differs between two backward passes


class GaussNewton(Measured):
    """J'·L''·J, with the Jacobian J of the model's output and the Hessian L'' of the loss with respect to that output.

    It is positive semidefinite if the loss is convex in the output. Cross-entropy and squared error are, and for them
    it is the Fisher matrix. It equals the Hessian if the model is linear in its parameters or fits the data exactly.

    `loss_fn` must call the model once per batch, and the loss may depend on the parameters only through one tensor of
    its output. The model may compute the loss itself, from that tensor, as those of Hugging Face do.

    Args:
        model, loss_fn, data, params, weight, mode: as for `Hessian`.
        outputs: function that returns that tensor from what the model returns, for example `lambda out: out.logits`. It
            must not compute a new one. By default, the model must return a single tensor.

    Raises:
        LossError: as for `Hessian`; or the loss does not depend on the tensor, or depends on the parameters in another
            way, such as a penalty on weights.
        ArgumentError, ArgumentTypeError: as for `Hessian`, or there is not a single tensor, from a single call.

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
        outputs: Callable[[Any], torch.Tensor] | None = None,
    ) -> None:
        if outputs is not None and not callable(outputs):
            raise ArgumentTypeError(
                f"GaussNewton: outputs must be a function of the model's output, got {describe_value(outputs)}; "
                "for example lambda out: out.logits"
            )
        self._select = outputs
        super().__init__(Objective("GaussNewton", model, loss_fn, data, params, weight, mode))
        gradient = self.objective.gradient()
        check_precision(self.objective)
        check_deterministic(self.objective)
        check_gradient(self.objective, mixed_direction(gradient))
        self._check_path()
        self.objective.recovery.attempt(lambda: self @ torch.zeros(self.shape[0]))  # also times a product
        self.matvecs = 0

    def _product(self, vector: torch.Tensor) -> torch.Tensor:
        return self._mean_product(vector)

    def _mean_product(self, vector: torch.Tensor) -> torch.Tensor:
        objective, parts = self.objective, self.objective.split(vector.to(self.device))
        with objective.measuring():
            return objective.mean(lambda number, batch: self._batch_product(batch, number, parts))

    def _output(self, batch: Any, number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the loss of a batch, the output of the model that it depends on, and its gradient by that output."""
        outputs: list[Any] = []
        handle = self.objective.model.register_forward_hook(lambda module, args, output: outputs.append(output))
        try:
            loss = self.objective.loss(batch, number)
        finally:
            handle.remove()
        if len(outputs) == 1 and self._select is not None:
            outputs = [self._select(outputs[0])]
        if len(outputs) != 1 or not isinstance(outputs[0], torch.Tensor):
            got = f"{len(outputs)} calls" if len(outputs) != 1 else type(outputs[0]).__name__
            remedy = "call it once" if len(outputs) != 1 else "select it by outputs=, such as lambda out: out.logits"
            raise ArgumentError(
                f"GaussNewton: model must return one tensor, in one call per batch, got {got}; {remedy}"
            )
        (gradient,) = torch.autograd.grad(loss, outputs[0], create_graph=True, allow_unused=True)
        if gradient is None:
            raise LossError(
                "GaussNewton: loss must depend on the output of the model, got one that does not; use the output, and "
                "let outputs= return the tensor itself, not one computed from it"
            )
        return loss, outputs[0], gradient

    def _check_path(self) -> None:
        """Raise unless the gradient of the first batch is that of the path through the output."""
        objective = self.objective
        with objective.measuring():
            _, batch, _ = next(objective.batches())
            loss, output, output_grad = self._output(batch, 0)

            def back(u: torch.Tensor) -> torch.Tensor:
                found = torch.autograd.grad(output, objective.params, u, retain_graph=True, materialize_grads=True)
                return objective.flatten(found).double()

            through, scale = back(output_grad.detach()), float(back(output_grad.detach().abs()).norm())
            whole = objective.flatten(objective.gradients(loss)).double()
        error, size = float((whole - through).norm()), max(float(whole.norm()), float(through.norm()))
        if error > objective.eps**0.5 * size + _ROUNDING * objective.eps * scale:
            raise LossError(
                "GaussNewton: loss must depend on the parameters only through the output of the model, got a gradient "
                f"of which {error / size:.2g} of the norm does not come through it; leave penalties and auxiliary "
                "losses out of loss_fn"
            )

    def _batch_product(self, batch: Any, number: int, parts: list[torch.Tensor]) -> torch.Tensor:
        _, output, output_grad = self._output(batch, number)
        params = self.objective.params
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
