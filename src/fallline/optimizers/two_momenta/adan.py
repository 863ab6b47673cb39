"""Adan: Adam with running means of the gradient and of its changes, in place of Nesterov's look-ahead."""

from typing import Any

from typing_extensions import Unpack

from fallline.core.common_options import CommonOptions
from fallline.core.optimizer import Optimizer, Params, Scalar
from fallline.optimizers.adam import denominator
from fallline.rules.ops import where
from fallline.rules.ranges import FRACTION, NON_NEGATIVE
from fallline.rules.rule import rule


def stability(exp_avg_sq: Any, *, beta1: Any, beta2: Any, beta3: Any, eps: Any, step: Any) -> tuple[Any, Any]:
    """Return P = √n̂ + eps, and the constant at which the recurrence of the rule has a root at −1.

    On the unit circle, the transfer function of either mean times 1/(z − 1) is real and negative only at z = −1, so
    the recurrence is stable below this constant.
    """
    gradients = (1 - beta1) / ((1 + beta1) * (1 - beta1**step))
    changes = 2 * beta2 * (1 - beta2) / ((1 + beta2) * (1 - beta2**step))
    return denominator(exp_avg_sq, beta3, eps, step), 2 / (gradients + changes)


@rule(
    state={"exp_avg": None, "exp_avg_diff": None, "exp_avg_sq": None, "previous_grad": None},
    non_negative=("exp_avg_sq",),
    ranges={"betas": FRACTION, "eps": NON_NEGATIVE},
    formula="d = g − g_prev;  m = β1·m + (1 − β1)·g;  v = β2·v + (1 − β2)·d;  n = β3·n + (1 − β3)·(g + β2·d)²;  "
    "p = (p − lr·(m̂ + β2·v̂)/(√n̂ + eps))/(1 + lr·wd)",
    source="Xie et al. 2022, arXiv:2208.06677v4, algorithm 1",
    weight_decay_modes=("in_update", "decoupled", "independent", "l2"),
    stability=stability,
)
def adan(
    param: Any,
    grad: Any,
    exp_avg: Any,
    exp_avg_diff: Any,
    exp_avg_sq: Any,
    previous_grad: Any,
    *,
    lr: Any,
    beta1: Any,
    beta2: Any,
    beta3: Any,
    eps: Any,
    weight_decay: Any,
    step: Any,
) -> tuple[Any, ...]:
    """Add a running mean of the changes of the gradient to Adam's momentum, and their size to its denominator.

    State:   exp_avg: like param, starts at 0. Running mean of gradients.
             exp_avg_diff: like param, starts at 0. Running mean of the changes of the gradient.
             exp_avg_sq: like param, starts at 0. Running mean of (gradient + beta2·change)².
             previous_grad: like param, starts at 0. The gradient of the last update of this parameter.
             step: number of updates of this parameter, 1 in the first update.
    Hyper:   lr: step length in param units, >= 0.  beta1, beta2, beta3: in [0, 1), decay of exp_avg, exp_avg_diff and
             exp_avg_sq.  eps: gradient units, outside the root.  weight_decay: None unless the mode is "in_update".
    Follows: Xie et al. 2022, arXiv:2208.06677v4, algorithm 1, without restarts, with the defaults of the authors' code
             (sail-sg/Adan).
    Differs: as in the authors' code, a beta is 1 minus that of the paper, the bias of all means is corrected, eps is
             outside the root, and the change is 0 in the first update. In the mode "in_update", the step is followed
             by a division by 1 + lr·weight_decay; `no_prox` is decoupled decay, before the step. The gradients and the
             step count are those of each parameter; the authors' code counts the steps of the group.
    """
    change = where(step > 1, 1, 0) * (grad - previous_grad)
    exp_avg = beta1 * exp_avg + (1 - beta1) * grad
    exp_avg_diff = beta2 * exp_avg_diff + (1 - beta2) * change
    ahead = grad + beta2 * change
    exp_avg_sq = beta3 * exp_avg_sq + (1 - beta3) * (ahead * ahead)
    update = exp_avg / (1 - beta1**step) + (beta2 / (1 - beta2**step)) * exp_avg_diff
    moved = param - lr * (update / denominator(exp_avg_sq, beta3, eps, step))
    decay = 1 if weight_decay is None else 1 + lr * weight_decay
    return moved / decay, exp_avg, exp_avg_diff, exp_avg_sq, grad


class Adan(Optimizer):
    """Adan, Adam with a Nesterov momentum that is estimated from the changes of the gradient.

    The option `clip_grad_norm` is the max_grad_norm of the authors' code.

    Use when: you train a vision transformer or a convolutional network with large batches, and two more states than
        AdamW's fit into memory. Start with 5 to 10 times the learning rate of AdamW and weight_decay=0.02, as the
        authors do. If you tune betas, begin with betas[2], then betas[0].

    Args:
        params: parameters, named parameters, or groups of them.
        lr: learning rate, >= 0; a number or a one-element tensor.
        betas: decay of the running means of the gradient, of its changes, and of the squared gradient that is
            corrected by its change, each in [0, 1).
        eps: added to the denominator, outside the root, >= 0.
        weight_decay: each step divides the new parameter by 1 + lr·weight_decay.
        no_prox: the authors' name for `weight_decay_mode="decoupled"`, which multiplies the parameter by
            1 − lr·weight_decay before the step.
        maximize, foreach, backend …: options of every optimizer, see `fallline.core.common_options.CommonOptions`.

    Raises:
        ArgumentError: a hyperparameter is out of range.
        GradientError: in `step`, a gradient is sparse or does not match its parameter.

    Example:
        >>> import torch, fallline as fl
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> opt = fl.Adan([w], lr=0.1, betas=(0.5, 0.5, 0.5))
        >>> for grad in (2.0, 1.0):
        ...     w.grad = torch.tensor([grad])
        ...     opt.step()
        >>> round(w.item(), 4)  # 0.9 − 0.1·(4/3 − 0.5·2/3)/√1.5: the change from 2 to 1 shortens the step
        0.8184
    """

    rule = adan

    def __init__(
        self,
        params: Params,
        lr: Scalar = 1e-3,
        betas: tuple[Scalar, Scalar, Scalar] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0,
        no_prox: bool = False,
        **options: Unpack[CommonOptions],
    ) -> None:
        if no_prox:
            options["weight_decay_mode"] = "decoupled"
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **options)
