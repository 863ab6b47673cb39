"""Schedule-Free SGD: SGD at a constant learning rate, evaluated at an average of its iterates."""

from typing import Any

from typing_extensions import Unpack

from fallline.core.common_options import CommonOptions
from fallline.core.optimizer import Params, Scalar
from fallline.core.schedule_free import ScheduleFree
from fallline.optimizers.schedule_free.average import add_weight, fraction, move, warmed_up
from fallline.rules.ranges import NON_NEGATIVE, Range
from fallline.rules.rule import rule


@rule(
    state={"z": None},
    scalar_state={"lr_max": 0.0, "weight_sum": 0.0},
    advance=add_weight,
    copies=("z",),
    ranges={
        "momentum": Range(0.0, 1.0, open=True),
        "warmup_steps": NON_NEGATIVE,
        "r": NON_NEGATIVE,
        "weight_lr_power": NON_NEGATIVE,
    },
    formula="z −= lr·g(y);  x += c·(z − x);  y = (1 − μ)·z + μ·x",
    source="Defazio et al. 2024, arXiv:2405.15682v4, equations 1 to 3; package schedulefree 1.4.1",
    weight_decay_modes=("l2",),
)
def schedulefreesgd(
    param: Any,
    grad: Any,
    z: Any,
    *,
    lr: Any,
    momentum: Any,
    warmup_steps: Any,
    r: Any,
    weight_lr_power: Any,
    step: Any,
    lr_max: Any,
    weight_sum: Any,
) -> tuple[Any, ...]:
    """Take the step of SGD from z with the gradient at y, which lies between z and the average x of all z.

    State:   z: like param, starts as a copy of it. The iterate of SGD.
             step: number of updates of this parameter, 1 in the first update.
             lr_max: number, starts at 0. Highest learning rate so far.
             weight_sum: number, starts at 0. Sum of the weights of all steps in the average.
    Hyper:   lr: step length in param units per unit of gradient, >= 0.  momentum: in (0, 1), the part of x in y.
             warmup_steps: >= 0, number of steps in which the learning rate grows linearly to lr.  r, weight_lr_power:
             >= 0, the weight of a step is step^r·lr_max^weight_lr_power.
    Follows: Defazio et al. 2024, arXiv:2405.15682v4, equations 1 to 3, in the form of the authors' package schedulefree
             1.4.1, which keeps y and z and never computes x.
    Differs: the param is y; the optimizer computes x = y + (1 − 1/momentum)·(z − y) for evaluation. The step count, the
             warm-up and the weights are those of each parameter, so one whose gradients start later averages from its
             own first step; the package counts them per group. Weight decay is added to the gradient at y, as there.
    """
    y = param
    c = fraction(lr_max, weight_sum, r, weight_lr_power, step)
    return move(y, z, grad, warmed_up(lr, warmup_steps, step), momentum, c)


class ScheduleFreeSGD(ScheduleFree):
    """SGD that needs no decay of the learning rate, because it is evaluated at an average of its iterates.

    Call `opt.eval()` before evaluating or saving the model and `opt.train()` before training on, or evaluate inside
    `with opt.averaged():`. A new optimizer is in train mode.

    Use when: you would use SGD with momentum, and the length of the run is not known in advance. Use a constant lr, 10
        to 50 times as high as for SGD with momentum 0.9, and no schedule; `warmup_steps` is built in. Before you
        evaluate a model with batch normalization, recompute its running statistics at the averaged weights.

    Args:
        params: parameters, named parameters, or groups of them.
        lr: learning rate, >= 0; a number or a one-element tensor.
        momentum: the part of the average in the point where gradients are computed, in (0, 1).
        weight_decay: L2 penalty, added to the gradient.
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
        >>> opt = fl.ScheduleFreeSGD([w], lr=0.5, momentum=0.5)
        >>> for _ in range(2):
        ...     w.grad = torch.tensor([1.0])
        ...     opt.step()
        >>> w.item()  # y between z = 0 and x = 0.25, the mean of z = 0.5 and z = 0
        0.125
        >>> with opt.averaged():
        ...     w.item()
        0.25
    """

    rule = schedulefreesgd

    def __init__(
        self,
        params: Params,
        lr: Scalar = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0,
        warmup_steps: float = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        **options: Unpack[CommonOptions],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            r=r,
            weight_lr_power=weight_lr_power,
            **options,
        )
