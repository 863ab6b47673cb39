"""NAdamW: AdamW with Nesterov momentum."""

from typing import Any

from typing_extensions import Unpack

from fallline.core.common_options import CommonOptions
from fallline.core.optimizer import Optimizer, Params, Scalar
from fallline.optimizers.adam import denominator
from fallline.rules.ranges import FRACTION, NON_NEGATIVE
from fallline.rules.rule import rule


def stability(exp_avg_sq: Any, *, beta1: Any, beta2: Any, eps: Any, step: Any) -> tuple[Any, Any]:
    """Return Adam's P, and the constant of Nesterov momentum, at which the recurrence of the rule has a root at −1."""
    constant = 2 * (1 + beta1) / ((1 - beta1) * (1 + 2 * beta1))
    return (1 - beta1**step) * denominator(exp_avg_sq, beta2, eps, step), constant


@rule(
    state={"exp_avg": None, "exp_avg_sq": None},
    non_negative=("exp_avg_sq",),
    ranges={"betas": FRACTION, "eps": NON_NEGATIVE},
    formula="p ·= 1 − lr·wd;  m̄ = β1·m/(1 − β1^(t+1)) + (1 − β1)·g/(1 − β1^t);  p −= lr·m̄/(√v̂ + eps)",
    source="Dozat 2016, ICLR workshop, algorithm 2, μ constant; decay as Loshchilov & Hutter 2019, arXiv:1711.05101",
    weight_decay_modes=("decoupled", "independent", "l2"),
    stability=stability,
)
def nadamw(
    param: Any, grad: Any, exp_avg: Any, exp_avg_sq: Any, *, lr: Any, beta1: Any, beta2: Any, eps: Any, step: Any
) -> tuple[Any, ...]:
    """Take Adam's step with the momentum that the next step would have if its gradient were the same.

    State:   exp_avg: like param, starts at 0. Running mean of gradients.
             exp_avg_sq: like param, starts at 0. Running mean of squared gradients.
             step: number of updates of this parameter, 1 in the first update.
    Hyper:   lr: step length in param units, >= 0.  beta1, beta2: in [0, 1).  eps: gradient units, outside the root.
    Follows: Dozat 2016, "Incorporating Nesterov momentum into Adam", ICLR workshop, algorithm 2, with μ_t = β1.
    Differs: decay is decoupled and applied before the step, as in AdamW. Bias correction uses t + 1 for the running
             mean, which is one step ahead, and t for the gradient. μ_t is constant; in `torch.optim.NAdam` it grows
             with t.
    """
    exp_avg = beta1 * exp_avg + (1 - beta1) * grad
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (grad * grad)
    ahead = (beta1 / (1 - beta1 ** (step + 1))) * exp_avg + ((1 - beta1) / (1 - beta1**step)) * grad
    return param - lr * (ahead / denominator(exp_avg_sq, beta2, eps, step)), exp_avg, exp_avg_sq


class NAdamW(Optimizer):
    """AdamW with Nesterov momentum.

    Use when: you use AdamW and have the budget to try a close relative. NAdamW gives the newest gradient more weight,
        as if it looked one step ahead. Use the lr, warm-up and weight decay of AdamW; the state is the same.

    Args:
        params: parameters, named parameters, or groups of them.
        lr: learning rate, >= 0; a number or a one-element tensor.
        betas: decay of the running means of the gradient and of its square, each in [0, 1).
        eps: added to the denominator, outside the root, >= 0.
        weight_decay: each step multiplies the parameter by 1 − lr·weight_decay.
        maximize, foreach, backend …: options of every optimizer, see `fallline.core.common_options.CommonOptions`.

    Raises:
        ArgumentError: a hyperparameter is out of range.
        GradientError: in `step`, a gradient is sparse or does not match its parameter.

    Example:
        >>> import torch, fallline as fl
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> opt = fl.NAdamW([w], lr=0.1, weight_decay=0.5)
        >>> w.grad = torch.tensor([5.0])
        >>> opt.step()
        >>> round(w.item(), 4)  # 0.95 − 0.1·(0.9·0.1/(1 − 0.9²) + 1)
        0.8026
    """

    rule = nadamw

    def __init__(
        self,
        params: Params,
        lr: Scalar = 1e-3,
        betas: tuple[Scalar, Scalar] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        **options: Unpack[CommonOptions],
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **options)
