"""Prodigy: Adam that estimates its learning rate from the distance that the parameters have to travel."""

import math
from typing import Any

from typing_extensions import Unpack

from fallline.core.common_options import CommonOptions
from fallline.core.optimizer import Optimizer, Params, Scalar
from fallline.rules.ops import maximum, sqrt
from fallline.rules.ranges import FRACTION, NON_NEGATIVE, POSITIVE, Range
from fallline.rules.rule import rule

NUMBER = Range(low=-math.inf)


def step_length(lr: Any, d: Any, beta1: Any, beta2: Any, step: Any, use_bias_correction: bool) -> Any:
    """Return the learning rate of a step, in param units, with the estimate d before the step."""
    if not use_bias_correction:
        return lr * d
    return lr * d * sqrt(1 - beta2**step) / (1 - beta1**step)


def next_sum(s: Any, grad: Any, scale: Any, beta2: Any, beta3: Any) -> Any:
    """Return the decaying sum of gradients after a step."""
    return (sqrt(beta2) if beta3 is None else beta3) * s + scale * grad


def evidence(
    param: Any,
    grad: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    s: Any,
    p0: Any,
    *,
    lr: Any,
    beta1: Any,
    beta2: Any,
    beta3: Any,
    d: Any,
    d0: Any,
    step: Any,
    use_bias_correction: bool,
    safeguard_warmup: bool,
) -> tuple[Any, Any]:
    """Return the elements whose sums estimate the distance: ⟨g, p0 − param⟩ and |s| after the step."""
    length = step_length(lr, d, beta1, beta2, step, use_bias_correction)
    s = next_sum(s, grad, d / d0 * (d if safeguard_warmup else length), beta2, beta3)
    return d / d0 * length * (grad * (p0 - param)), maximum(s, -s)


def estimate(
    d: float,
    d_max: float,
    d_numerator: float,
    *,
    progress: float,
    total: float,
    beta2: float,
    beta3: float | None,
    d0: float,
    d_coef: float,
    growth_rate: float,
) -> tuple[float, float, float]:
    """Return the estimate of the distance, its maximum and its numerator after a step; unchanged without gradients."""
    if total == 0:
        return d, d_max, d_numerator
    numerator = (math.sqrt(beta2) if beta3 is None else beta3) * d_numerator + progress
    found = d_coef * numerator / total
    largest = max(d_max, found)
    start = max(d, found) if d == d0 else d
    return min(largest, start * growth_rate), largest, numerator


@rule(
    state={"exp_avg": None, "exp_avg_sq": None, "s": None, "p0": None},
    non_negative=("exp_avg_sq",),
    copies=("p0",),
    steps=("s",),
    sums=("progress", "total"),
    summands=evidence,
    group_state=("d", "d_max", "d_numerator"),
    adapt=estimate,
    ranges={
        "betas": FRACTION,
        "eps": NON_NEGATIVE,
        "beta3": Range(0.0, 1.0, optional=True),
        "d0": POSITIVE,
        "d_coef": POSITIVE,
        "growth_rate": Range(1.0, infinite=True),
        "d": POSITIVE,
        "d_max": POSITIVE,
        "d_numerator": NUMBER,
    },
    formula="p −= lr·d·m/(√v + d·eps);  d = max(d, d_coef·Σ lr·d²·⟨g, p0 − p⟩/‖Σ lr·d²·g‖₁)",
    source="Mishchenko and Defazio 2023, arXiv:2306.06101v4, algorithm 4; package prodigyopt 1.1.2",
    weight_decay_modes=("in_update", "l2"),
)
def prodigy(
    param: Any,
    grad: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    s: Any,
    p0: Any,
    *,
    lr: Any,
    beta1: Any,
    beta2: Any,
    beta3: Any,
    eps: Any,
    weight_decay: Any,
    d0: Any,
    d: Any,
    next_d: Any,
    step: Any,
    use_bias_correction: bool,
    safeguard_warmup: bool,
) -> tuple[Any, ...]:
    """Take Adam's step with the learning rate lr·d, where d estimates the distance to the solution.

    State:   exp_avg: like param, starts at 0. Running mean of gradients times d.
             exp_avg_sq: like param, starts at 0. Running mean of squared gradients times d².
             s: like param, starts at 0. Decaying sum of gradients times their step length.
             p0: like param, starts as a copy of it. The parameter before its first update.
             step: number of updates of this parameter, 1 in the first update.
    Hyper:   lr: factor of the estimated learning rate, >= 0, usually 1.  beta1, beta2: in [0, 1).  beta3: decay of s,
             in [0, 1); None is √beta2.  eps: gradient units, outside the root.  weight_decay: None unless the mode is
             "in_update".  d0: first estimate, in param units, > 0.  d, next_d: estimates before and after this step.
             d_coef, growth_rate: see `estimate`.
    Follows: Mishchenko and Defazio 2023, arXiv:2306.06101v4, algorithm 4, in the form of the authors' package
             prodigyopt 1.1.2, whose names the groups have: d, d_max and d_numerator are numbers of the group.
    Differs: the step count of the bias correction is that of each parameter; the package counts steps per group. With
             lr = 0 the estimate stays, but the running means go on; the package does nothing. s and p0 have all
             elements, like slice_p=1.
    """
    length = step_length(lr, d, beta1, beta2, step, use_bias_correction)
    exp_avg = beta1 * exp_avg + (d * (1 - beta1)) * grad
    exp_avg_sq = beta2 * exp_avg_sq + (d * d * (1 - beta2)) * (grad * grad)
    s = next_sum(s, grad, d / d0 * (d if safeguard_warmup else length), beta2, beta3)
    if weight_decay is not None:
        param = param * (1 - weight_decay * length)
    return param - length * (exp_avg / (sqrt(exp_avg_sq) + next_d * eps)), exp_avg, exp_avg_sq, s, p0


class Prodigy(Optimizer):
    """Adam that needs no learning rate: it multiplies `lr`, which stays 1, by an estimate of the distance to travel.

    The estimate, `optimizer.param_groups[0]["d"]`, starts at `d0` and grows within some tens or hundreds of steps; it
    never falls. All groups share it, so all must have the same lr.

    Use when: you cannot afford to tune the learning rate, for example to fine-tune adapters of large models. Keep lr=1
        and a cosine schedule without restarts, and tune `d_coef` (0.5 to 2) if at all. If the schedule has a warm-up,
        set safeguard_warmup=True. It keeps four tensors per parameter, twice as many as Adam.

    Args:
        params: parameters, named parameters, or groups of them.
        lr: factor of the estimated learning rate, >= 0; a number or a one-element tensor.
        betas: decay of the running means of the gradient and of its square, each in [0, 1).
        beta3: decay of the sums of the estimate, in [0, 1); None is the root of betas[1].
        eps: added to the denominator, outside the root and times the estimate, >= 0.
        weight_decay: each step also multiplies the parameter by 1 − lr·d·weight_decay.
        decouple: prodigyopt's name: False is `weight_decay_mode="l2"`.
        use_bias_correction: correct the running means for their start at 0, as Adam does.
        safeguard_warmup: keep a small lr, as in a warm-up, from making the estimate too large.
        d0: first estimate, > 0; it should be smaller than any distance, and rarely needs a change.
        d_coef: factor of the estimate, > 0.
        growth_rate: largest factor by which the estimate grows in a step, >= 1; infinity is no limit.
        maximize, foreach, backend …: options of every optimizer, see `fallline.core.common_options.CommonOptions`.

    Raises:
        ArgumentError: a hyperparameter is out of range.
        GradientError: in `step`, a gradient is sparse or does not match its parameter.

    Example:
        >>> import torch, fallline as fl
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> opt = fl.Prodigy([w])
        >>> for _ in range(200):
        ...     w.grad = w.detach() - 3  # the solution is at a distance of 2
        ...     opt.step()
        >>> round(w.item(), 1), 0.5 < opt.param_groups[0]["d"] < 2
        (3.0, True)
    """

    rule = prodigy

    def __init__(
        self,
        params: Params,
        lr: Scalar = 1.0,
        betas: tuple[Scalar, Scalar] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0,
        decouple: bool = True,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = math.inf,
        **options: Unpack[CommonOptions],
    ) -> None:
        if not decouple:
            options["weight_decay_mode"] = "l2"
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            beta3=beta3,
            eps=eps,
            weight_decay=weight_decay,
            use_bias_correction=use_bias_correction,
            safeguard_warmup=safeguard_warmup,
            d0=d0,
            d_coef=d_coef,
            growth_rate=growth_rate,
            **options,
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, which shares the estimate of the others; see `Optimizer.add_param_group`."""
        if self.param_groups:
            shared = {key: self.param_groups[0][key] for key in self.rule.group_state}
        else:
            start = {**self.defaults, **param_group}["d0"]
            shared = {"d": start, "d_max": start, "d_numerator": 0.0}
        super().add_param_group({**shared, **param_group})
