"""Adam: bias-corrected running means of the gradient and of its square."""

from typing import Any

from typing_extensions import Unpack

from fallline.core.common_options import CommonOptions
from fallline.core.optimizer import Optimizer, Params, Scalar
from fallline.rules.ops import maximum, sqrt
from fallline.rules.ranges import FRACTION, NON_NEGATIVE
from fallline.rules.rule import rule


def denominator(second_moment: Any, beta2: Any, eps: Any, step: Any) -> Any:
    """Return √v̂ + eps, where v̂ is the bias-corrected second moment."""
    return sqrt(second_moment) / sqrt(1 - beta2**step) + eps


def stability(exp_avg_sq: Any, max_exp_avg_sq: Any, *, beta1: Any, beta2: Any, eps: Any, step: Any) -> tuple[Any, Any]:
    """Return P = (1 − β1^t)·(√v̂ + eps), and 2·(1 + β1)/(1 − β1): Cohen et al. 2022, arXiv:2207.14484, section 3."""
    second_moment = exp_avg_sq if max_exp_avg_sq is None else max_exp_avg_sq
    return (1 - beta1**step) * denominator(second_moment, beta2, eps, step), 2 * (1 + beta1) / (1 - beta1)


@rule(
    state={"exp_avg": None, "exp_avg_sq": None, "max_exp_avg_sq": "amsgrad"},
    non_negative=("exp_avg_sq", "max_exp_avg_sq"),
    ranges={"betas": FRACTION, "eps": NON_NEGATIVE},
    formula="m = β1·m + (1 − β1)·g;  v = β2·v + (1 − β2)·g²;  p −= lr·m̂/(√v̂ + eps)",
    source="Kingma & Ba 2015, arXiv:1412.6980v9, algorithm 1; amsgrad: Reddi et al. 2018, arXiv:1904.09237",
    exact={"amsgrad": "the running maximum of randomly rounded values can only grow"},
    stability=stability,
)
def adam(
    param: Any,
    grad: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    max_exp_avg_sq: Any,
    *,
    lr: Any,
    beta1: Any,
    beta2: Any,
    eps: Any,
    step: Any,
) -> tuple[Any, ...]:
    """Divide the running mean of the gradient by the square root of the running mean of its square.

    State:   exp_avg: like param, starts at 0. Running mean of gradients.
             exp_avg_sq: like param, starts at 0. Running mean of squared gradients.
             max_exp_avg_sq: like param, starts at 0, only with amsgrad. Largest exp_avg_sq so far.
             step: number of updates of this parameter, 1 in the first update.
    Hyper:   lr: step length in param units, >= 0.  beta1, beta2: in [0, 1).  eps: gradient units, outside the root.
    Follows: Kingma & Ba 2015, arXiv:1412.6980v9, algorithm 1; amsgrad: Reddi et al. 2018, arXiv:1904.09237v1.
    Differs: amsgrad corrects the bias of the maximum, as in PyTorch; the paper applies no bias correction.
    """
    exp_avg = beta1 * exp_avg + (1 - beta1) * grad
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * grad * grad
    second_moment = exp_avg_sq
    if max_exp_avg_sq is not None:
        second_moment = max_exp_avg_sq = maximum(max_exp_avg_sq, exp_avg_sq)
    bias_correction1 = 1 - beta1**step
    direction = exp_avg / denominator(second_moment, beta2, eps, step)
    return param - (lr / bias_correction1) * direction, exp_avg, exp_avg_sq, max_exp_avg_sq


class Adam(Optimizer):
    """Adam, a drop-in replacement for `torch.optim.Adam`; `weight_decay` is an L2 penalty, see `AdamW`.

    Use when: you want a first result quickly and need no weight decay. Start with the default lr of 1e-3, or 1e-4 if
        training is unstable. With weight decay, prefer AdamW: Adam's denominator also divides the decay, so that
        parameters with large gradients are decayed less.

    Args:
        params: parameters, named parameters, or groups of them.
        lr: learning rate, >= 0; a number or a one-element tensor.
        betas: decay of the running means of the gradient and of its square, each in [0, 1).
        eps: added to the denominator, outside the root, >= 0.
        weight_decay: L2 penalty, added to the gradient, so that the denominator divides it.
        amsgrad: divide by the largest second moment so far.
        decoupled_weight_decay: PyTorch's name for `weight_decay_mode="decoupled"`.
        maximize, foreach, backend …: options of every optimizer, see `fallline.core.common_options.CommonOptions`.

    Raises:
        ArgumentError: a hyperparameter is out of range.
        GradientError: in `step`, a gradient is sparse or does not match its parameter.

    Example:
        >>> import torch, fallline as fl
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> opt = fl.Adam([w], lr=0.1)
        >>> w.grad = torch.tensor([5.0])
        >>> opt.step()
        >>> round(w.item(), 4)  # the length of the first step is lr, whatever the gradient
        0.9
    """

    rule = adam

    def __init__(
        self,
        params: Params,
        lr: Scalar = 1e-3,
        betas: tuple[Scalar, Scalar] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        decoupled_weight_decay: bool = False,
        **options: Unpack[CommonOptions],
    ) -> None:
        if decoupled_weight_decay:
            options["weight_decay_mode"] = "decoupled"
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, **options)
