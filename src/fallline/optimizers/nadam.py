"""NAdam: Adam with Nesterov momentum that grows during the first steps."""

from typing import Any

from typing_extensions import Unpack

from fallline.core.common_options import CommonOptions
from fallline.core.optimizer import Optimizer, Params, Scalar
from fallline.optimizers.adam import denominator
from fallline.rules.ranges import FRACTION, NON_NEGATIVE
from fallline.rules.rule import rule


def momentum(beta1: Any, momentum_decay: Any, step: Any) -> Any:
    """Return μ_t = β1·(1 − 0.96^(t·ψ)/2), the momentum of a step, which grows from about β1/2 to β1."""
    return beta1 * (1 - 0.96 ** (step * momentum_decay) / 2)


def multiply_momenta(mu_product: float, beta1: float, momentum_decay: float, step: float) -> tuple[float]:
    """Return the product of the momenta of all steps up to this one."""
    return (mu_product * momentum(beta1, momentum_decay, step),)


def stability(
    exp_avg_sq: Any, *, beta1: Any, beta2: Any, eps: Any, momentum_decay: Any, step: Any, mu_product: Any
) -> tuple[Any, Any]:
    """Return Adam's P, and the constant at which the recurrence of the rule with momentum μ_t has a root at −1."""
    constant = 2 * (1 + beta1) / (1 + beta1 - 2 * beta1 * momentum(beta1, momentum_decay, step))
    return (1 - mu_product) * denominator(exp_avg_sq, beta2, eps, step), constant


@rule(
    state={"exp_avg": None, "exp_avg_sq": None},
    non_negative=("exp_avg_sq",),
    scalar_state={"mu_product": 1.0},
    advance=multiply_momenta,
    ranges={"betas": FRACTION, "eps": NON_NEGATIVE, "momentum_decay": NON_NEGATIVE},
    formula="m̄ = μ_(t+1)·m/(1 − μ_1···μ_(t+1)) + (1 − μ_t)·g/(1 − μ_1···μ_t);  p −= lr·m̄/(√v̂ + eps)",
    source="Dozat 2016, ICLR workshop, algorithm 2, as in torch.optim.NAdam",
    weight_decay_modes=("l2", "decoupled", "independent"),
    stability=stability,
)
def nadam(
    param: Any,
    grad: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    *,
    lr: Any,
    beta1: Any,
    beta2: Any,
    eps: Any,
    momentum_decay: Any,
    step: Any,
    mu_product: Any,
) -> tuple[Any, ...]:
    """Take Adam's step with the momentum of the next step, where momentum grows with the age of the parameter.

    State:   exp_avg: like param, starts at 0. Running mean of gradients.
             exp_avg_sq: like param, starts at 0. Running mean of squared gradients.
             step: number of updates of this parameter, 1 in the first update.
             mu_product: number, starts at 1. Product of the momenta μ of all updates of this parameter.
    Hyper:   lr: step length in param units, >= 0.  beta1, beta2: in [0, 1).  eps: gradient units, outside the root.
             momentum_decay: ψ >= 0, how fast the momentum μ_t = β1·(1 − 0.96^(t·ψ)/2) grows.
    Follows: Dozat 2016, "Incorporating Nesterov momentum into Adam", ICLR workshop, algorithm 2, with the μ_t of
             `torch.optim.NAdam`.
    Differs: as in PyTorch, the running mean has the constant decay beta1, and μ_t only weighs it against the gradient.
             The bias of the running mean and of the gradient is corrected by products of μ, that of exp_avg_sq by
             beta2. PyTorch keeps mu_product in float32; here it is float64.
    """
    exp_avg = beta1 * exp_avg + (1 - beta1) * grad
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (grad * grad)
    mu, mu_next = momentum(beta1, momentum_decay, step), momentum(beta1, momentum_decay, step + 1)
    ahead = (mu_next / (1 - mu_product * mu_next)) * exp_avg + ((1 - mu) / (1 - mu_product)) * grad
    return param - lr * (ahead / denominator(exp_avg_sq, beta2, eps, step)), exp_avg, exp_avg_sq


class NAdam(Optimizer):
    """Adam with Nesterov momentum, a drop-in replacement for `torch.optim.NAdam`.

    Use when: you want to reproduce a result of `torch.optim.NAdam`. It differs from Adam in the first steps, where its
        momentum is smaller, and in the weight of the newest gradient. For a new model, prefer NAdamW, whose momentum
        is constant and whose weight decay is decoupled.

    Args:
        params: parameters, named parameters, or groups of them.
        lr: learning rate, >= 0; a number or a one-element tensor.
        betas: decay of the running means of the gradient and of its square, each in [0, 1).
        eps: added to the denominator, outside the root, >= 0.
        weight_decay: L2 penalty, added to the gradient, so that the denominator divides it.
        momentum_decay: how fast the momentum grows from about betas[0]/2 to betas[0], >= 0; 0 keeps it at the half.
        decoupled_weight_decay: PyTorch's name for `weight_decay_mode="decoupled"`.
        maximize, foreach, backend …: options of every optimizer, see `fallline.core.common_options.CommonOptions`.

    Raises:
        ArgumentError: a hyperparameter is out of range.
        GradientError: in `step`, a gradient is sparse or does not match its parameter.

    Example:
        >>> import torch, fallline as fl
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> opt = fl.NAdam([w], lr=0.1, momentum_decay=0.0)
        >>> w.grad = torch.tensor([5.0])
        >>> opt.step()
        >>> round(w.item(), 4)  # μ = 0.45: 1 − 0.1·(0.1·0.45/(1 − 0.45²) + 0.55/(1 − 0.45))
        0.8944
    """

    rule = nadam

    def __init__(
        self,
        params: Params,
        lr: Scalar = 2e-3,
        betas: tuple[Scalar, Scalar] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        **options: Unpack[CommonOptions],
    ) -> None:
        if decoupled_weight_decay:
            options["weight_decay_mode"] = "decoupled"
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, momentum_decay=momentum_decay, **options
        )
