"""Lion: the sign of an interpolated momentum."""

from typing import Any

from typing_extensions import Unpack

from fallline.core.common_options import CommonOptions
from fallline.core.optimizer import Optimizer, Params, Scalar
from fallline.rules.ops import sign
from fallline.rules.ranges import FRACTION
from fallline.rules.rule import rule


@rule(
    state={"exp_avg": None},
    ranges={"betas": FRACTION},
    formula="p ·= 1 − lr·wd;  p −= lr·sign(β1·m + (1 − β1)·g);  m = β2·m + (1 − β2)·g",
    source="Chen et al. 2023, arXiv:2302.06675v4, algorithm 2",
    weight_decay_modes=("decoupled", "independent"),  # L2 would pass through the sign
)
def lion(param: Any, grad: Any, exp_avg: Any, *, lr: Any, beta1: Any, beta2: Any) -> tuple[Any, ...]:
    """Step by lr in every coordinate, in the direction of the sign of a running mean of the gradients.

    State:   exp_avg: like param, starts at 0. Running mean of gradients, slower than the mean that gives the direction.
    Hyper:   lr: step length in param units, >= 0; 3 to 10 times smaller than Adam's.  beta1, beta2: in [0, 1).
    Follows: Chen et al. 2023, arXiv:2302.06675v4, algorithm 2.
    Differs: decay is applied before the step, as in AdamW; the paper's order differs by lr²·weight_decay. sign(0) is 0.
             There is no eps and no bias correction.
    """
    direction = sign(beta1 * exp_avg + (1 - beta1) * grad)
    exp_avg = beta2 * exp_avg + (1 - beta2) * grad
    return param - lr * direction, exp_avg


class Lion(Optimizer):
    """Lion: half the state of Adam, and steps of size lr in every coordinate.

    Use when: Adam's second state does not fit into memory, or batches are large. Use an lr that is 3 to 10 times
        smaller than AdamW's and a weight_decay that is larger by the same factor, which keeps their product. Every step
        has the size lr in every coordinate, however small the gradient, so use a schedule that decays the lr. In small
        batches the signs are mostly noise.

    Args:
        params: parameters, named parameters, or groups of them.
        lr: learning rate, >= 0; a number or a one-element tensor.
        betas: decay of the mean that gives the direction, and of the mean that is stored, each in [0, 1).
        weight_decay: each step multiplies the parameter by 1 − lr·weight_decay; 3 to 10 times AdamW's.
        weight_decay_mode: "decoupled" or "independent"; never "l2", which would pass through the sign.
        maximize, foreach, backend …: options of every optimizer, see `fallline.core.common_options.CommonOptions`.

    Raises:
        ArgumentError: a hyperparameter is out of range.
        GradientError: in `step`, a gradient is sparse or does not match its parameter.

    Example:
        >>> import torch, fallline as fl
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> opt = fl.Lion([w], lr=0.1, weight_decay=0.5)
        >>> w.grad = torch.tensor([5.0])
        >>> opt.step()
        >>> round(w.item(), 4)  # 1·(1 − 0.1·0.5) − 0.1
        0.85
    """

    rule = lion

    def __init__(
        self,
        params: Params,
        lr: Scalar = 1e-4,
        betas: tuple[Scalar, Scalar] = (0.9, 0.99),
        weight_decay: float = 0,
        **options: Unpack[CommonOptions],
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay, **options)
