"""AdEMAMix: AdamW with a second, much slower running mean of the gradient."""

from typing import Any

from typing_extensions import Unpack

from fallline.core.common_options import CommonOptions
from fallline.core.optimizer import Optimizer, Params, Scalar
from fallline.optimizers.adam import denominator
from fallline.rules.ops import exp, log, maximum, minimum, where
from fallline.rules.ranges import FRACTION, NON_NEGATIVE, Range
from fallline.rules.rule import rule

_LEAST = 1e-8  # in place of a beta of 0, which has no logarithm; the authors' code adds it to every beta
_OPTIONAL = Range(optional=True)


def progress(warmup: Any, step: Any) -> Any:
    """Return the part of a warm-up that is over, in (0, 1]; 1 without a warm-up."""
    return 1 if warmup is None else minimum(step / maximum(warmup, 1), 1)


def slow_beta(beta1: Any, beta3: Any, warmup: Any, step: Any) -> Any:
    """Return β3 of a step: during the warm-up, the half-life of the mean grows linearly from that of β1."""
    if warmup is None:
        return beta3
    done = progress(warmup, step)
    inverse = (1 - done) / log(maximum(beta1, _LEAST)) + done / log(maximum(beta3, _LEAST))
    return where(step < warmup, exp(1 / inverse), beta3)


def stability(
    exp_avg_sq: Any,
    *,
    beta1: Any,
    beta2: Any,
    beta3: Any,
    alpha: Any,
    eps: Any,
    alpha_warmup: Any,
    beta3_warmup: Any,
    step: Any,
) -> tuple[Any, Any]:
    """Return P = √v̂ + eps, and the constant at which the recurrence of the rule has a root at −1.

    On the unit circle, the transfer function of either mean times 1/(z − 1) is real and negative only at z = −1, so
    the recurrence is stable below this constant.
    """
    beta3 = slow_beta(beta1, beta3, beta3_warmup, step)
    fast = (1 - beta1) / ((1 + beta1) * (1 - beta1**step))
    slow = alpha * progress(alpha_warmup, step) * (1 - beta3) / (1 + beta3)
    return denominator(exp_avg_sq, beta2, eps, step), 2 / (fast + slow)


@rule(
    state={"exp_avg_fast": None, "exp_avg_slow": None, "exp_avg_sq": None},
    non_negative=("exp_avg_sq",),
    ranges={
        "betas": FRACTION,
        "alpha": NON_NEGATIVE,
        "beta3_warmup": _OPTIONAL,
        "alpha_warmup": _OPTIONAL,
        "eps": NON_NEGATIVE,
    },
    formula="m = β1·m + (1 − β1)·g;  s = β3·s + (1 − β3)·g;  v = β2·v + (1 − β2)·g²;  p −= lr·(m̂ + α·s)/(√v̂ + eps)",
    source="Pagliardini et al. 2024, arXiv:2409.03137v2, algorithm 1",
    weight_decay_modes=("decoupled", "independent", "l2"),
    stability=stability,
)
def ademamix(
    param: Any,
    grad: Any,
    exp_avg_fast: Any,
    exp_avg_slow: Any,
    exp_avg_sq: Any,
    *,
    lr: Any,
    beta1: Any,
    beta2: Any,
    beta3: Any,
    alpha: Any,
    beta3_warmup: Any,
    alpha_warmup: Any,
    eps: Any,
    step: Any,
) -> tuple[Any, ...]:
    """Add a slow running mean of gradients, times alpha, to Adam's momentum.

    State:   exp_avg_fast: like param, starts at 0. Running mean of gradients with decay beta1.
             exp_avg_slow: like param, starts at 0. Running mean of gradients with decay beta3.
             exp_avg_sq: like param, starts at 0. Running mean of squared gradients.
             step: number of updates of this parameter, 1 in the first update.
    Hyper:   lr: step length in param units, >= 0.  beta1, beta2, beta3: in [0, 1).  alpha: weight of the slow mean,
             >= 0.  beta3_warmup, alpha_warmup: steps of the warm-ups, >= 0, or None.  eps: gradient units, outside the
             root.
    Follows: Pagliardini et al. 2024, arXiv:2409.03137v2, algorithm 1, with the defaults and state keys of the authors'
             code (apple/ml-ademamix).
    Differs: the two warm-ups have their own lengths, as in the authors' code; the paper has one, T. Decoupled decay,
             outside the denominator. The bias of exp_avg_fast and of exp_avg_sq is corrected, that of exp_avg_slow is
             not. The authors' code adds 1e-8 to both betas inside the logarithms of the warm-up; here 1e-8 replaces
             only smaller betas.
    """
    slow = slow_beta(beta1, beta3, beta3_warmup, step)
    exp_avg_fast = beta1 * exp_avg_fast + (1 - beta1) * grad
    exp_avg_slow = slow * exp_avg_slow + (1 - slow) * grad
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (grad * grad)
    mixed = exp_avg_fast / (1 - beta1**step) + (alpha * progress(alpha_warmup, step)) * exp_avg_slow
    return param - lr * (mixed / denominator(exp_avg_sq, beta2, eps, step)), exp_avg_fast, exp_avg_slow, exp_avg_sq


class AdEMAMix(Optimizer):
    """AdamW whose momentum mixes a fast running mean of the gradient with a slow one.

    Use when: you train a language model for tens of thousands of steps, and a third state fits into memory. Keep the
        learning rate and the weight decay of AdamW, and set both `beta3_warmup` and `alpha_warmup` to the length of the
        run; the authors' README then uses alpha=8. If the run is short compared with 1/(1 − betas[2]) steps, lower
        betas[2].

    Args:
        params: parameters, named parameters, or groups of them.
        lr: learning rate, >= 0; a number or a one-element tensor.
        betas: decay of the fast running mean of the gradient, of the running mean of its square, and of the slow
            running mean of the gradient, each in [0, 1).
        alpha: weight of the slow mean, >= 0; 0 gives AdamW.
        beta3_warmup: number of steps in which the half-life of the slow mean grows linearly from that of betas[0] to
            that of betas[2]; None or 0 for none.
        alpha_warmup: number of steps in which the weight of the slow mean grows linearly from 0 to alpha; None or 0 for
            none.
        eps: added to the denominator, outside the root, >= 0.
        weight_decay: each step multiplies the parameter by 1 − lr·weight_decay.
        maximize, foreach, backend …: options of every optimizer, see `fallline.core.common_options.CommonOptions`.

    Raises:
        ArgumentError: a hyperparameter is out of range.
        GradientError: in `step`, a gradient is sparse or does not match its parameter.

    Example:
        >>> import torch, fallline as fl
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> opt = fl.AdEMAMix([w], lr=0.1, betas=(0.9, 0.999, 0.99), alpha=5.0)
        >>> w.grad = torch.tensor([4.0])
        >>> opt.step()
        >>> round(w.item(), 4)  # 1 − 0.1·(4 + 5·0.01·4)/4: only the fast mean is corrected for its start at 0
        0.895
    """

    rule = ademamix

    def __init__(
        self,
        params: Params,
        lr: Scalar = 1e-3,
        betas: tuple[Scalar, Scalar, Scalar] = (0.9, 0.999, 0.9999),
        alpha: float = 2.0,
        beta3_warmup: float | None = None,
        alpha_warmup: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0,
        **options: Unpack[CommonOptions],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            alpha=alpha,
            beta3_warmup=beta3_warmup,
            alpha_warmup=alpha_warmup,
            eps=eps,
            weight_decay=weight_decay,
            **options,
        )
