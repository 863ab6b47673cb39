"""LAMB: Adam's direction, scaled per tensor to the size of the parameters."""

from typing import Any

from typing_extensions import Unpack

from fallline.core.common_options import CommonOptions
from fallline.core.optimizer import Optimizer, Params, Scalar
from fallline.rules.ops import minimum, sqrt, where
from fallline.rules.rule import FRACTION, NON_NEGATIVE, TENSOR, Norm, Range, rule


@rule(
    state={"exp_avg": None, "exp_avg_sq": None},
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
    """Take Adam's direction, decay included, with a length proportional to the norm of the tensor it updates.

    State:   exp_avg: like param, starts at 0. Running mean of gradients.
             exp_avg_sq: like param, starts at 0. Running mean of squared gradients.
             step: updates this parameter has received, 1 at the first.
    Hyper:   lr: step length relative to the norm of the tensor, >= 0.  beta1, beta2: in [0, 1).  eps: gradient units,
             outside the root.  weight_decay: None unless decay is in the update.  trust_clip: largest ratio, or None.
    Follows: You et al. 2020, arXiv:1904.00962v5, algorithm 2, with φ(z) = z.
    Differs: the ratio is 1 where either norm is 0, so that a tensor that starts at 0 can leave it.
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
    """LAMB, for large batches: every tensor moves by about lr of its own norm.

    Use when: batches of thousands of examples make AdamW lose accuracy at the learning rate they need. Begin with an lr
        of 1e-3 to 1e-2 and a warm-up, and give biases and norms a group of their own with trust_ratio=False and
        weight_decay=0. At ordinary batch sizes AdamW does the same with one pass less over the tensors.

    Args:
        params: parameters, named parameters, or groups of them.
        lr: learning rate, >= 0; a number or a one-element tensor.
        betas: decay of the running means of the gradient and of its square, each in [0, 1).
        eps: added to the denominator, outside the root, >= 0.
        weight_decay: weight_decay·param joins the update before the trust ratio.
        trust_ratio: False gives plain Adam steps; usual for a group of biases and norms.
        trust_clip: largest ratio; None leaves it free.
        weight_decay_mode: "in_update", "decoupled", "independent" or "l2".
        maximize, foreach, backend …: options of every optimizer, see `fallline.core.common_options.CommonOptions`.

    Raises:
        ArgumentError: a hyperparameter lies outside its range.
        GradientError: in `step`, a gradient is sparse or does not fit its parameter.

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
