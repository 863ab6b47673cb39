"""Stochastic gradient descent with momentum, dampening and Nesterov momentum."""

from typing import Any

from typing_extensions import Unpack

from fallline.core.common_options import ExtraOptions
from fallline.core.optimizer import Optimizer, Params, Scalar
from fallline.errors import ArgumentError
from fallline.rules.ops import where
from fallline.rules.ranges import NON_NEGATIVE, Range
from fallline.rules.rule import rule


def stability(*, momentum: Any, dampening: Any, nesterov: bool) -> tuple[Any, Any]:
    """Return 1 and the c at which the recurrence has a root at −1: 2 without momentum, 2·(1 + μ) for heavy ball."""
    if not momentum:
        return 1, 2
    return 1, 2 * (1 + momentum) / (1 + 2 * momentum if nesterov else 1 - dampening)


@rule(
    state={"momentum_buffer": "momentum"},
    ranges={"momentum": NON_NEGATIVE, "dampening": Range(low=float("-inf"))},
    formula="b = μ·b + (1 − dampening)·g;  p −= lr·b  (nesterov: g + μ·b)",
    source="Robbins & Monro 1951; Polyak 1964; Sutskever et al. 2013",
    stability=stability,
)
def sgd(
    param: Any,
    grad: Any,
    momentum_buffer: Any,
    *,
    lr: Any,
    momentum: Any,
    dampening: Any,
    nesterov: bool,
    first: Any,
) -> tuple[Any, ...]:
    """Step against the gradient, or against a decaying sum of the gradients so far.

    State:   momentum_buffer: like param; the first gradient after the first step. Absent without momentum.
    Hyper:   lr: step length in param units per unit of gradient, >= 0.  momentum: >= 0, usually below 1.
             dampening: the fraction of each gradient that is left out of the buffer.
    Follows: Sutskever et al. 2013, "On the importance of initialization and momentum", in PyTorch's form, where lr
             multiplies the buffer instead of the gradient.
    Differs: the first gradient is added to the buffer without dampening, as in PyTorch.
    """
    direction = grad
    if momentum_buffer is not None:
        momentum_buffer = momentum * momentum_buffer + where(first, 1, 1 - dampening) * grad
        direction = grad + momentum * momentum_buffer if nesterov else momentum_buffer
    return param - lr * direction, momentum_buffer


class SGD(Optimizer):
    """Stochastic gradient descent, a drop-in replacement for `torch.optim.SGD`.

    Use when: the model is a convolutional network and you can tune the learning rate. Use momentum=0.9, often with
        nesterov=True, an lr of 0.01 to 0.1 that decays, and a weight decay around 1e-4. Without momentum it has no
        state. It is slow if the scale of the gradients differs between layers, as in transformers.

    Args:
        params: parameters, named parameters, or groups of them.
        lr: learning rate, >= 0; a number or a one-element tensor.
        momentum: factor of the running sum of gradients; 0 stores no state.
        dampening: fraction of each gradient that is left out of that sum; must be 0 with `nesterov`.
        weight_decay: L2 penalty, added to the gradient unless `weight_decay_mode` is changed.
        nesterov: use Nesterov momentum, which looks one step ahead; requires `momentum > 0`.
        maximize, foreach, backend …: options of every optimizer, see `fallline.core.common_options.CommonOptions`.

    Raises:
        ArgumentError: a hyperparameter is out of range.
        GradientError: in `step`, a gradient is sparse or does not match its parameter.

    Example:
        >>> import torch, fallline as fl
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> opt = fl.SGD([w], lr=0.1, momentum=0.9)
        >>> for _ in range(2):
        ...     w.grad = torch.tensor([1.0])
        ...     opt.step()
        >>> round(w.item(), 4)  # 1 − 0.1·1 − 0.1·1.9
        0.71
    """

    rule = sgd

    def __init__(
        self,
        params: Params,
        lr: Scalar = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: Scalar = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[ExtraOptions],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
            **options,
        )

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ArgumentError(
                "SGD: nesterov=True needs momentum > 0 and dampening == 0, got "
                f"momentum={group['momentum']:g}, dampening={group['dampening']:g}; try momentum=0.9"
            )
