"""Adamax: Adam with the infinity norm of past gradients instead of their root mean square."""

from typing import Any

from typing_extensions import Unpack

from fallline.core.common_options import ExtraOptions
from fallline.core.optimizer import Optimizer, Params, Scalar
from fallline.rules.ops import maximum
from fallline.rules.ranges import FRACTION, NON_NEGATIVE
from fallline.rules.rule import rule


def stability(exp_inf: Any, *, beta1: Any, step: Any) -> tuple[Any, Any]:
    """Return P = (1 − β1^t)·u, and the constant of Adam, 2·(1 + β1)/(1 − β1)."""
    return (1 - beta1**step) * exp_inf, 2 * (1 + beta1) / (1 - beta1)


@rule(
    state={"exp_avg": None, "exp_inf": None},
    non_negative=("exp_inf",),
    ranges={"betas": FRACTION, "eps": NON_NEGATIVE},
    formula="m = β1·m + (1 − β1)·g;  u = max(β2·u, |g| + eps);  p −= lr·m̂/u",
    source="Kingma & Ba 2015, arXiv:1412.6980v9, algorithm 2",
    stability=stability,
)
def adamax(
    param: Any, grad: Any, exp_avg: Any, exp_inf: Any, *, lr: Any, beta1: Any, beta2: Any, eps: Any, step: Any
) -> tuple[Any, ...]:
    """Divide the running mean of the gradient by a decaying maximum of its magnitude.

    State:   exp_avg: like param, starts at 0. Running mean of gradients.
             exp_inf: like param, starts at 0. Decaying maximum of the magnitudes of gradients.
             step: number of updates of this parameter, 1 in the first update.
    Hyper:   lr: step length in param units, >= 0.  beta1, beta2: in [0, 1).  eps: gradient units, inside the maximum.
    Follows: Kingma & Ba 2015, arXiv:1412.6980v9, algorithm 2.
    Differs: eps is added to the magnitude of each gradient, inside the maximum, as in PyTorch; the paper has no eps.
             Only exp_avg is corrected for bias, because a maximum has none.
    """
    exp_avg = beta1 * exp_avg + (1 - beta1) * grad
    exp_inf = maximum(beta2 * exp_inf, maximum(grad, -grad) + eps)
    return param - (lr / (1 - beta1**step)) * (exp_avg / exp_inf), exp_avg, exp_inf


class Adamax(Optimizer):
    """Adamax, a drop-in replacement for `torch.optim.Adamax`.

    Use when: you reproduce a recipe that uses it. A step is at most about lr long in every coordinate, and one large
        gradient shortens the steps of its coordinate for 1/(1 − beta2) updates, which tolerates rare large gradients,
        as those of embeddings. With few exceptions, Adam or AdamW is the safer choice.

    Args:
        params: parameters, named parameters, or groups of them.
        lr: learning rate, >= 0; a number or a one-element tensor.
        betas: decay of the running mean of the gradient and of the maximum of its magnitude, each in [0, 1).
        eps: added to the magnitude of each gradient before the maximum is taken, >= 0.
        weight_decay: L2 penalty, added to the gradient unless `weight_decay_mode` is changed.
        maximize, foreach, backend …: options of every optimizer, see `fallline.core.common_options.CommonOptions`.

    Raises:
        ArgumentError: a hyperparameter is out of range.
        GradientError: in `step`, a gradient is sparse or does not match its parameter.

    Example:
        >>> import torch, fallline as fl
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> opt = fl.Adamax([w], lr=0.1, betas=(0.5, 0.9))
        >>> for g in (4.0, 1.0):
        ...     w.grad = torch.tensor([g])
        ...     opt.step()
        >>> round(w.item(), 4)  # 1 − 0.1 − 0.1·((1/4·4 + 1/2·1)/(1 − 1/4))/(0.9·4)
        0.8444
    """

    rule = adamax

    def __init__(
        self,
        params: Params,
        lr: Scalar = 2e-3,
        betas: tuple[Scalar, Scalar] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **options: Unpack[ExtraOptions],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            capturable=capturable,
            **options,
        )
