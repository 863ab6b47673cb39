"""LAMB: Adam's direction, scaled per tensor by the norm of the parameter."""

from typing import Any

from typing_extensions import Unpack

from fallline.core.common_options import CommonOptions
from fallline.core.optimizer import Optimizer, Params, Scalar
from fallline.rules.ops import minimum, sqrt, where
from fallline.rules.ranges import FRACTION, NON_NEGATIVE, Range
from fallline.rules.rule import TENSOR, Norm, rule


@rule(
    state={"exp_avg": None, "exp_avg_sq": None},
    non_negative=("exp_avg_sq",),
    ranges={"betas": FRACTION, "eps": NON_NEGATIVE, "trust_clip": Range(open=True, optional=True)},
    formula="u = m̂/(√v̂ + eps) + wd·p;  p −= lr·(‖p‖/‖u‖)·u",
    source="You et al. 2020, arXiv:1904.00962v5, algorithm 2",
    weight_decay_modes=("in_update", "decoupled", "independent", "l2"),
)
def lamb(
    param: Any,
    grad: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    *,
    lr: Any,
    beta1: Any,
    beta2: Any,
    eps: Any,
    step: Any,
    weight_decay: Any,
    trust_ratio: bool,
    trust_clip: Any,
    norm: Norm,
) -> tuple[Any, ...]:
    """Scale Adam's direction, including decay, to a length proportional to the norm of the parameter tensor.

    State:   exp_avg: like param, starts at 0. Running mean of gradients.
             exp_avg_sq: like param, starts at 0. Running mean of squared gradients.
             step: number of updates of this parameter, 1 in the first update.
    Hyper:   lr: step length relative to the norm of the tensor, >= 0.  beta1, beta2: in [0, 1).  eps: gradient units,
             outside the root.  weight_decay: None unless the mode is "in_update".  trust_clip: largest ratio, or None.
    Follows: You et al. 2020, arXiv:1904.00962v5, algorithm 2, with φ(z) = z.
    Differs: the ratio is 1 if either norm is 0, so that a tensor that is initialized to 0 can leave it.
    """
    exp_avg = beta1 * exp_avg + (1 - beta1) * grad
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (grad * grad)
    bias_correction1 = 1 - beta1**step
    bias_correction2 = 1 - beta2**step
    update = (exp_avg / bias_correction1) / (sqrt(exp_avg_sq) / sqrt(bias_correction2) + eps)
    if weight_decay is not None:
        update = update + weight_decay * param
    ratio: Any = 1
    if trust_ratio:
        param_norm, update_norm = norm(param, TENSOR), norm(update, TENSOR)
        ratio = where(param_norm * update_norm > 0, param_norm / update_norm, 1)
        if trust_clip is not None:
            ratio = minimum(ratio, trust_clip)
    return param - (lr * ratio) * update, exp_avg, exp_avg_sq


class LAMB(Optimizer):
    """LAMB, for large batches: the length of each step is about lr times the norm of the tensor.

    Use when: the batches have thousands of examples, and AdamW loses accuracy at the learning rates that they need.
        Start with an lr of 1e-3 to 1e-2 and a warm-up, and put biases and normalization parameters into a group with
        trust_ratio=False and weight_decay=0. At ordinary batch sizes, AdamW performs as well and needs one pass less
        over the tensors.

    Args:
        params: parameters, named parameters, or groups of them.
        lr: learning rate, >= 0; a number or a one-element tensor.
        betas: decay of the running means of the gradient and of its square, each in [0, 1).
        eps: added to the denominator, outside the root, >= 0.
        weight_decay: weight_decay·param is added to the update before the trust ratio is computed.
        trust_ratio: False gives plain Adam steps; usual for a group of biases and normalization parameters.
        trust_clip: upper limit of the ratio; None means no limit.
        weight_decay_mode: "in_update", "decoupled", "independent" or "l2".
        maximize, foreach, backend …: options of every optimizer, see `fallline.core.common_options.CommonOptions`.

    Raises:
        ArgumentError: a hyperparameter is out of range.
        GradientError: in `step`, a gradient is sparse or does not match its parameter.

    Example:
        >>> import torch, fallline as fl
        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> opt = fl.LAMB([w], lr=0.1, weight_decay=0.0)
        >>> w.grad = torch.tensor([1.0, 1.0])
        >>> opt.step()
        >>> [round(x, 4) for x in w.tolist()]  # a step of 0.1·‖w‖ = 0.5 along (1, 1)/√2
        [2.6464, 3.6464]
    """

    rule = lamb

    def __init__(
        self,
        params: Params,
        lr: Scalar = 1e-3,
        betas: tuple[Scalar, Scalar] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
        *,
        trust_ratio: bool = True,
        trust_clip: float | None = None,
        **options: Unpack[CommonOptions],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            trust_ratio=trust_ratio,
            trust_clip=trust_clip,
            **options,
        )
