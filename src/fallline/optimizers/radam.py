"""RAdam: Adam that is rectified for the variance of its denominator in the first steps."""

from typing import Any

from typing_extensions import Unpack

from fallline.core.common_options import ExtraOptions
from fallline.core.optimizer import Optimizer, Params, Scalar
from fallline.rules.ops import maximum, sqrt, where
from fallline.rules.ranges import FRACTION, NON_NEGATIVE
from fallline.rules.rule import rule


def lengths(beta2: Any, step: Any) -> tuple[Any, Any]:
    """Return ρ_∞ and ρ_t, the lengths of the simple moving averages that resemble v after many updates and now."""
    longest = 2 / (1 - beta2) - 1
    return longest, longest - 2 * step * beta2**step / (1 - beta2**step)


def rectification(longest: Any, length: Any) -> Any:
    """Return r_t, by which steps are shortened when the denominator varies much; meaningless for a length up to 5."""
    a, b = maximum(length, 5), maximum(longest, 5)  # otherwise the root of a negative number, or a division by 0
    return sqrt((a - 4) * (a - 2) * b / ((b - 4) * (b - 2) * a))


def rectified(exp_avg_sq: Any, longest: Any, length: Any, beta2: Any, eps: Any, step: Any) -> Any:
    """Return the denominator of the step: (√v + eps)/(r·√(1 − β2^t)), or 1 while r is unknown."""
    adaptive = (sqrt(exp_avg_sq) + eps) / (rectification(longest, length) * sqrt(1 - beta2**step))
    return where(length > 5, adaptive, 1)


def stability(exp_avg_sq: Any, *, beta1: Any, beta2: Any, eps: Any, step: Any) -> tuple[Any, Any]:
    """Return P = (1 − β1^t)·denominator, and the constant of Adam, 2·(1 + β1)/(1 − β1)."""
    denominator = rectified(exp_avg_sq, *lengths(beta2, step), beta2, eps, step)
    return (1 - beta1**step) * denominator, 2 * (1 + beta1) / (1 - beta1)


@rule(
    state={"exp_avg": None, "exp_avg_sq": None},
    non_negative=("exp_avg_sq",),
    ranges={"betas": FRACTION, "eps": NON_NEGATIVE},
    formula="p −= lr·m̂·r·√(1 − β2^t)/(√v + eps) if ρ > 5 else lr·m̂",
    source="Liu et al. 2020, arXiv:1908.03265v4, algorithm 2",
    stability=stability,
)
def radam(
    param: Any, grad: Any, exp_avg: Any, exp_avg_sq: Any, *, lr: Any, beta1: Any, beta2: Any, eps: Any, step: Any
) -> tuple[Any, ...]:
    """Take Adam's step times a factor below 1 that grows with the number of squares in the denominator.

    State:   exp_avg: like param, starts at 0. Running mean of gradients.
             exp_avg_sq: like param, starts at 0. Running mean of squared gradients.
             step: number of updates of this parameter, 1 in the first update.
    Hyper:   lr: step length in param units, >= 0; in the first updates, in param units per unit of gradient.
             beta1, beta2: in [0, 1).  eps: gradient units, outside the root, before the bias correction.
    Follows: Liu et al. 2020, arXiv:1908.03265v4, algorithm 2.
    Differs: as in PyTorch, the step is rectified if ρ_t > 5 (in the paper, > 4), and eps is added to √v before the bias
             correction; the paper has no eps.
    """
    exp_avg = beta1 * exp_avg + (1 - beta1) * grad
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * grad * grad
    longest, length = lengths(beta2, step)
    denominator = rectified(exp_avg_sq, longest, length, beta2, eps, step)
    return param - (lr / (1 - beta1**step)) * (exp_avg / denominator), exp_avg, exp_avg_sq


class RAdam(Optimizer):
    """RAdam, a drop-in replacement for `torch.optim.RAdam`.

    Use when: you want to train with Adam or AdamW without a warm-up. The first 5 updates (at the default beta2) are
        those of momentum with the gradients as they are, the next ones grow to Adam's over about 2/(1 − beta2) updates.
        An explicit warm-up of the lr has nearly the same effect and a length that you can choose.

    Args:
        params: parameters, named parameters, or groups of them.
        lr: learning rate, >= 0; a number or a one-element tensor.
        betas: decay of the running means of the gradient and of its square, each in [0, 1).
        eps: added to the denominator, outside the root and before the bias correction, >= 0.
        weight_decay: L2 penalty, added to the gradient, so that the denominator divides it.
        decoupled_weight_decay: PyTorch's name for `weight_decay_mode="decoupled"`, as in the code of the authors.
        maximize, foreach, backend …: options of every optimizer, see `fallline.core.common_options.CommonOptions`.

    Raises:
        ArgumentError: a hyperparameter is out of range.
        GradientError: in `step`, a gradient is sparse or does not match its parameter.

    Example:
        >>> import torch, fallline as fl
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> opt = fl.RAdam([w], lr=0.1)
        >>> w.grad = torch.tensor([5.0])
        >>> opt.step()
        >>> round(w.item(), 4)  # 1 − 0.1·5: the first steps are proportional to the gradient
        0.5
    """

    rule = radam

    def __init__(
        self,
        params: Params,
        lr: Scalar = 1e-3,
        betas: tuple[Scalar, Scalar] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **options: Unpack[ExtraOptions],
    ) -> None:
        if decoupled_weight_decay:
            options["weight_decay_mode"] = "decoupled"
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            **options,
        )
