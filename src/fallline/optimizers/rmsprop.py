"""RMSprop: the gradient divided by its running root mean square."""

from typing import Any

from typing_extensions import Unpack

from fallline.core.common_options import ExtraOptions
from fallline.core.optimizer import Optimizer, Params, Scalar
from fallline.rules.ops import maximum, sqrt
from fallline.rules.ranges import FRACTION, NON_NEGATIVE
from fallline.rules.rule import rule


def denominator(square_avg: Any, grad_avg: Any, eps: Any, eps_inside_sqrt: bool) -> Any:
    """Return √v + eps, where v is the second moment, or the variance if `grad_avg` is given."""
    variance = square_avg
    if grad_avg is not None:
        variance = maximum(square_avg - grad_avg * grad_avg, 0)  # rounding can make it negative for a constant gradient
    return sqrt(variance + eps) if eps_inside_sqrt else sqrt(variance) + eps


def stability(square_avg: Any, grad_avg: Any, *, eps: Any, momentum: Any, eps_inside_sqrt: bool) -> tuple[Any, Any]:
    """Return P = √v + eps, and the constant of heavy-ball momentum, 2·(1 + μ)."""
    return denominator(square_avg, grad_avg, eps, eps_inside_sqrt), 2 * (1 + momentum)


@rule(
    state={"square_avg": None, "grad_avg": "centered", "momentum_buffer": "momentum"},
    non_negative=("square_avg",),
    ranges={"alpha": FRACTION, "eps": NON_NEGATIVE, "momentum": NON_NEGATIVE},
    formula="v = α·v + (1 − α)·g²;  p −= lr·g/(√v + eps)",
    source="Tieleman & Hinton 2012, lecture 6.5; centered: Graves 2013, arXiv:1308.0850",
    exact={"centered": "the difference of two randomly rounded means may be negative"},
    stability=stability,
    counts_steps=True,  # the formula needs no `step`, but PyTorch's state has one and fails to load without it
)
def rmsprop(
    param: Any,
    grad: Any,
    square_avg: Any,
    grad_avg: Any,
    momentum_buffer: Any,
    *,
    lr: Any,
    alpha: Any,
    eps: Any,
    momentum: Any,
    eps_inside_sqrt: bool,
) -> tuple[Any, ...]:
    """Divide each gradient by the square root of a running mean of its squares.

    State:   square_avg: like param, starts at 0. Running mean of squared gradients.
             grad_avg: like param, starts at 0, only with centered. Running mean of gradients.
             momentum_buffer: like param, starts at 0, only with momentum. Decaying sum of the scaled gradients.
    Hyper:   lr: step length in param units, >= 0.  alpha: in [0, 1).  eps: gradient units, outside the root.
             momentum: >= 0.
    Follows: Tieleman & Hinton 2012, Coursera lecture 6.5; centered: Graves 2013, arXiv:1308.0850v5, eq. 38-45.
    Differs: eps is added outside the root by default, as in PyTorch; `eps_inside_sqrt=True` is the placement of the
             lecture and of TensorFlow (eps then has squared gradient units). There is no bias correction: square_avg
             starts at 0, so the first step has the length lr/√(1 − alpha). The centered variance is clamped at 0;
             without this, rounding leads to NaN, as in PyTorch.
    """
    square_avg = alpha * square_avg + (1 - alpha) * grad * grad
    if grad_avg is not None:
        grad_avg = alpha * grad_avg + (1 - alpha) * grad
    direction = grad / denominator(square_avg, grad_avg, eps, eps_inside_sqrt)
    if momentum_buffer is not None:
        direction = momentum_buffer = momentum * momentum_buffer + direction
    return param - lr * direction, square_avg, grad_avg, momentum_buffer


class RMSprop(Optimizer):
    """RMSprop, a drop-in replacement for `torch.optim.RMSprop`.

    Use when: the scale of the gradients changes during training, as in reinforcement learning and recurrent networks.
        Without bias correction, the first step has the length lr/√(1 − alpha), so use a warm-up or start with a small
        lr. Unless a recipe was tuned for RMSprop, AdamW is the safer choice.

    Args:
        params: parameters, named parameters, or groups of them.
        lr: learning rate, >= 0; a number or a one-element tensor.
        alpha: decay of the running mean of squares, in [0, 1).
        eps: added to the denominator, >= 0.
        weight_decay: L2 penalty, added to the gradient unless `weight_decay_mode` is changed.
        momentum: factor of the running sum of scaled gradients; 0 stores no buffer.
        centered: divide by the standard deviation instead of the root mean square.
        eps_inside_sqrt: divide by √(v + eps), as in Hinton's lecture and TensorFlow, instead of √v + eps.
        maximize, foreach, backend …: options of every optimizer, see `fallline.core.common_options.CommonOptions`.

    Raises:
        ArgumentError: a hyperparameter is out of range.
        GradientError: in `step`, a gradient is sparse or does not match its parameter.

    Example:
        >>> import torch, fallline as fl
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> opt = fl.RMSprop([w], lr=0.01, alpha=0.99)
        >>> w.grad = torch.tensor([3.0])
        >>> opt.step()
        >>> round(w.item(), 4)  # the length of the first step is lr/√(1 − alpha), whatever the gradient
        0.9
    """

    rule = rmsprop

    def __init__(
        self,
        params: Params,
        lr: Scalar = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        eps_inside_sqrt: bool = False,
        **options: Unpack[ExtraOptions],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            capturable=capturable,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            eps_inside_sqrt=eps_inside_sqrt,
            **options,
        )
