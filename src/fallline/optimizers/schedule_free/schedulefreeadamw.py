"""Schedule-Free AdamW: AdamW at a constant learning rate, evaluated at an average of its iterates."""

from typing import Any

from typing_extensions import Unpack

from fallline.core.common_options import CommonOptions
from fallline.core.optimizer import Params, Scalar
from fallline.core.schedule_free import ScheduleFree
from fallline.optimizers.adam import denominator
from fallline.optimizers.schedule_free.average import add_weight, fraction, move, warmed_up
from fallline.rules.ranges import NON_NEGATIVE, Range
from fallline.rules.rule import rule


@rule(
    state={"z": None, "exp_avg_sq": None},
    non_negative=("exp_avg_sq",),
    scalar_state={"lr_max": 0.0, "weight_sum": 0.0},
    advance=add_weight,
    copies=("z",),
    ranges={
        "betas": Range(0.0, 1.0, open=True),
        "eps": NON_NEGATIVE,
        "warmup_steps": NON_NEGATIVE,
        "r": NON_NEGATIVE,
        "weight_lr_power": NON_NEGATIVE,
    },
    formula="z −= lr·(g(y)/(√v̂ + eps) + wd·y);  x += c·(z − x);  y = (1 − β1)·z + β1·x",
    source="Defazio et al. 2024, arXiv:2405.15682v4, algorithm 1; package schedulefree 1.4.1",
    weight_decay_modes=("in_update", "l2"),
)
def schedulefreeadamw(
    param: Any,
    grad: Any,
    z: Any,
    exp_avg_sq: Any,
    *,
    lr: Any,
    beta1: Any,
    beta2: Any,
    eps: Any,
    weight_decay: Any,
    warmup_steps: Any,
    r: Any,
    weight_lr_power: Any,
    step: Any,
    lr_max: Any,
    weight_sum: Any,
) -> tuple[Any, ...]:
    """Take a step of AdamW without momentum from z with the gradient at y, between z and the average x of all z.

    State:   z: like param, starts as a copy of it. The iterate of AdamW.
             exp_avg_sq: like param, starts at 0. Running mean of squared gradients.
             step: number of updates of this parameter, 1 in the first update.
             lr_max: number, starts at 0. Highest learning rate so far.
             weight_sum: number, starts at 0. Sum of the weights of all steps in the average.
    Hyper:   lr: step length in param units, >= 0.  beta1: in (0, 1), the part of x in y.  beta2: in (0, 1).  eps:
             gradient units, outside the root.  weight_decay: None unless the mode is "in_update".  warmup_steps: >= 0,
             number of steps in which the learning rate grows linearly to lr.  r, weight_lr_power: >= 0, the weight of a
             step is step^r·lr_max^weight_lr_power.
    Follows: Defazio et al. 2024, arXiv:2405.15682v4, algorithm 1, in the form of the authors' package schedulefree
             1.4.1, which keeps y and z and never computes x.
    Differs: the param is y; the optimizer computes x = y + (1 − 1/beta1)·(z − y) for evaluation. As in the package, the
             weights contain the highest learning rate so far, squared by default, and the decay is computed at y. The
             step count, the warm-up and the weights are those of each parameter, so one whose gradients start later
             averages from its own first step; the package counts them per group. exp_avg_sq is corrected for bias.
    """
    y = param
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (grad * grad)
    direction = grad / denominator(exp_avg_sq, beta2, eps, step)
    if weight_decay is not None:
        direction = direction + weight_decay * y
    c = fraction(lr_max, weight_sum, r, weight_lr_power, step)
    return *move(y, z, direction, warmed_up(lr, warmup_steps, step), beta1, c), exp_avg_sq


class ScheduleFreeAdamW(ScheduleFree):
    """AdamW that needs no decay of the learning rate, because it is evaluated at an average of its iterates.

    Call `opt.eval()` before evaluating or saving the model and `opt.train()` before training on, or evaluate inside
    `with opt.averaged():`. A new optimizer is in train mode.

    Use when: the length of the run is not known in advance, or you want good weights at any time of it. Use a constant
        lr, 1 to 10 times as high as for AdamW, and no schedule; `warmup_steps` is built in. If the length is known,
        compare with AdamW and a schedule that decays to 0. For long runs, try betas=(0.95, 0.99) or (0.98, 0.99).

    Args:
        params: parameters, named parameters, or groups of them.
        lr: learning rate, >= 0; a number or a one-element tensor.
        betas: the part of the average in the point where gradients are computed, and the decay of the running mean of
            squared gradients, each in (0, 1).
        eps: added to the denominator, outside the root, >= 0.
        weight_decay: each step also moves z by −lr·weight_decay·param.
        warmup_steps: number of steps in which the learning rate grows linearly to `lr`.
        r: power of the step in the weights of the average, >= 0; larger values weigh later steps more.
        weight_lr_power: power of the highest learning rate so far in those weights, >= 0.
        maximize, foreach, backend …: options of every optimizer, see `fallline.core.common_options.CommonOptions`.

    Raises:
        ArgumentError: a hyperparameter is out of range.
        GradientError: in `step`, a gradient is sparse or does not match its parameter.
        StateError: in `step`, the optimizer is in eval mode.

    Example:
        >>> import torch, fallline as fl
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> opt = fl.ScheduleFreeAdamW([w], lr=0.1)
        >>> for _ in range(2):
        ...     w.grad = torch.tensor([5.0])
        ...     opt.step()
        >>> round(w.item(), 4)  # y = 0.1·z + 0.9·x, where z = 0.8 and x is the mean of 0.9 and 0.8
        0.845
        >>> with opt.averaged():
        ...     round(w.item(), 4)
        0.85
    """

    rule = schedulefreeadamw

    def __init__(
        self,
        params: Params,
        lr: Scalar = 2.5e-3,
        betas: tuple[Scalar, Scalar] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        warmup_steps: float = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        **options: Unpack[CommonOptions],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            r=r,
            weight_lr_power=weight_lr_power,
            **options,
        )
