"""Three methods to compute the product of the Hessian with a vector."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from fallline.landscape.loss.averaging import ModelLoss
from fallline.landscape.loss.objective import Objective
from fallline.landscape.loss.preserve import displaced, random_numbers
from fallline.landscape.operators.convolution import QuickConvolutions

Parts = Sequence[torch.Tensor]
Product = Callable[[Objective, Any, Parts], torch.Tensor]  # (objective, batch, vector by parameter) -> flat product


def through_graph(objective: Objective, gradients: Parts, vector: Parts, keep: bool) -> torch.Tensor:
    """Return the product from the graph of the gradients; gradients without a graph are constant and add zero rows."""
    pairs = [(g, v) for g, v in zip(gradients, vector, strict=True) if g.requires_grad]
    if not pairs:
        return torch.zeros(objective.n, dtype=objective.dtype, device=objective.device)
    outputs, weights = zip(*pairs, strict=True)
    found = torch.autograd.grad(outputs, objective.params, weights, retain_graph=keep, allow_unused=True)
    return objective.flatten(
        torch.zeros_like(p) if g is None else g for g, p in zip(found, objective.params, strict=True)
    )


def double_backward(objective: Objective, batch: Any, vector: Parts) -> torch.Tensor:
    """Return the product by differentiating the gradient with a second backward pass."""
    return through_graph(objective, gradients_with_graph(objective, batch), vector, keep=False)


def gradients_with_graph(objective: Objective, batch: Any) -> list[torch.Tensor]:
    """Return the gradient of a batch for each parameter, with a graph that can be differentiated again."""
    with QuickConvolutions():
        return objective.gradients(objective.loss(batch), graph=True)


def jvp(objective: Objective, batch: Any, vector: Parts) -> torch.Tensor:
    """Return the product by differentiating the gradient along the vector in forward mode."""
    closed = ModelLoss(objective.model, objective.loss_fn)
    names = [objective.own_name(p) for p in objective.params]

    def gradient(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        def loss(*inner: torch.Tensor) -> torch.Tensor:
            named = {f"model.{name}": value for name, value in zip(names, inner, strict=True)}
            return torch.func.functional_call(closed, named, (batch,)).reshape(())  # type: ignore[no-any-return]

        return torch.func.grad(loss, argnums=tuple(range(len(values))))(*values)  # type: ignore[no-any-return]

    point = tuple(p.detach() for p in objective.params)
    found = torch.func.jvp(gradient, point, tuple(vector))[1]
    return objective.flatten(found)


def finite_difference(objective: Objective, batch: Any, vector: Parts, shrink: float = 1.0) -> torch.Tensor:
    """Return the product as the central difference of two gradients, a small step along the vector apart.

    The step h balances the rounding error of the gradients, eps/h, against the error from the third derivative, h²:
    h = eps^(1/3) times the norm of the parameters. About 10 digits are correct in float64, and about 4 in float32.
    """
    norm = float(torch.linalg.vector_norm(objective.flatten(vector).double()))
    if norm == 0:
        return torch.zeros(objective.n, dtype=objective.dtype, device=objective.device)
    size = float(torch.linalg.vector_norm(objective.flatten(objective.params).double()))
    h = shrink * objective.eps ** (1 / 3) * max(1.0, size) / norm
    sides, restore_random_numbers = [], random_numbers()
    for distance in (h, -h):
        restore_random_numbers()  # the same dropout on both sides
        with displaced(objective.params, vector, distance):
            sides.append(objective.flatten(objective.gradients(objective.loss(batch))))
    return (sides[0] - sides[1]) / (2 * h)  # type: ignore[no-any-return]


PRODUCTS: dict[str, Product] = {
    "double-backward": double_backward,
    "jvp": jvp,
    "finite-difference": finite_difference,
}
