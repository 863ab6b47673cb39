"""Adafactor: second moments of a matrix in a row and a column, and steps relative to the size of the parameter."""

import math
from collections.abc import Sequence
from typing import Any

from typing_extensions import Unpack

from fallline.arguments import is_number
from fallline.core.common_options import ExtraOptions
from fallline.core.optimizer import Optimizer, Params, Scalar
from fallline.errors import ArgumentError
from fallline.rules.matrices import mean, mean_square
from fallline.rules.ops import machine_epsilon, maximum, minimum, sqrt
from fallline.rules.ranges import Range
from fallline.rules.rule import rule


def factor_shapes(shape: Sequence[int]) -> dict[str, tuple[int, ...] | None]:
    """Return the shapes of the states: a column and a row for each matrix of the last two dimensions.

    Example:
        >>> factor_shapes((8, 64, 32))
        {'row_var': (8, 64, 1), 'col_var': (8, 1, 32), 'variance': None}
        >>> factor_shapes((64,))
        {'row_var': None, 'col_var': None}
    """
    if len(shape) < 2:
        return {"row_var": None, "col_var": None}
    return {"row_var": (*shape[:-1], 1), "col_var": (*shape[:-2], 1, shape[-1]), "variance": None}


@rule(
    state={"row_var": None, "col_var": None, "variance": None, "exp_avg": "beta1"},
    shapes=factor_shapes,
    steps=("exp_avg",),
    ranges={"beta2_decay": Range(-math.inf), "d": Range(1.0), "beta1": Range(0.0, 1.0, optional=True)},
    formula="r, c = running means of g² over rows, columns;  u = g/√(r·c/mean(r));  "
    "p −= max(eps2, rms(p))·min(lr, 1/√t)·u/max(1, rms(u)/d)",
    source="Shazeer and Stern 2018, arXiv:1804.04235v1, algorithms 4 and 5, as in torch.optim.Adafactor",
    weight_decay_modes=("decoupled", "independent", "l2"),
    whole=True,
)
def adafactor(
    param: Any,
    grad: Any,
    row_var: Any,
    col_var: Any,
    variance: Any,
    exp_avg: Any,
    *,
    undecayed: Any,
    lr: Any,
    beta2_decay: Any,
    eps: tuple,  # type: ignore[type-arg]  # the declaration compares the plain type
    d: Any,
    beta1: Any,
    scale_parameter: bool,
    relative_step: bool,
    step: Any,
) -> tuple[Any, ...]:
    """Divide each gradient by a root mean square estimated from its row and its column, and limit the mean update.

    State:   row_var: a number for each row, starts at 0. Running mean of the mean squared gradient of the row.
             col_var: a number for each column, starts at 0. The same for the columns.
             variance: like param, starts at 0. Running mean of squared gradients; only for vectors and numbers, which
             have no row_var and col_var.
             exp_avg: like param, starts at 0. Running mean of the steps; only with beta1.
             step: number of updates of this parameter, 1 in the first update.
    Hyper:   lr: largest step length, relative to the root mean square of the parameter, >= 0.  beta2_decay: <= 0; the
             running means have the decay 1 − t^beta2_decay.  eps: lower limits, of √v in gradient units (None: the
             machine epsilon) and of the root mean square of the parameter in param units.  d: largest root mean square
             of an update, >= 1.  beta1: in [0, 1) or None.
    Follows: Shazeer and Stern 2018, arXiv:1804.04235v1, algorithms 4 and 5 with the settings of algorithm 6, in the
             form of torch.optim.Adafactor: a tensor with more than two dimensions is a stack of matrices, which share
             the limit d and the root mean square of the parameter. The momentum is that of the authors' code in
             Tensor2Tensor: a running mean of the steps, after they are multiplied by their length.
    Differs: as in PyTorch, lr takes the place of the paper's 0.01; eps[0] is a lower limit of the denominator instead
             of a term of the squared gradient; and means replace sums, which cancels. Weight decay, which the paper
             lacks, is decoupled, and the step length depends on the parameter before it. There is no bias to
             correct, because the decay of the first update is 0. PyTorch takes the machine epsilon of half-precision
             parameters; here it is that of float32, in which they are computed.
    """
    eps1, eps2 = eps
    least = machine_epsilon(param) if eps1 is None else eps1
    weight = step**beta2_decay
    if variance is None:
        row_var = (1 - weight) * row_var + weight * mean_square(grad, -1)
        col_var = (1 - weight) * col_var + weight * mean_square(grad, -2)
        root = sqrt(row_var / maximum(mean(row_var, -2), least)) * sqrt(col_var)
    else:
        variance = (1 - weight) * variance + weight * (grad * grad)
        root = sqrt(variance)
    update = grad / maximum(root, least)
    rate = minimum(lr, step**-0.5) if relative_step else lr
    if scale_parameter:
        rate = rate * maximum(sqrt(mean_square(undecayed)), eps2)
    change = update * (rate / maximum(sqrt(mean_square(update)) / d, 1))
    if exp_avg is not None:
        exp_avg = change = beta1 * exp_avg + (1 - beta1) * change
    return param - change, row_var, col_var, variance, exp_avg


class Adafactor(Optimizer):
    """Adafactor, whose second moments need almost no memory; a drop-in replacement for `torch.optim.Adafactor`.

    Each matrix has one second moment per row and one per column instead of one per element. The step length is
    relative to the root mean square of the parameter, and falls with 1/√t below lr.

    Use when: the state of AdamW does not fit into memory, or you reproduce a result of T5 or another model that was
        trained with it. For the paper's settings, leave the options at their defaults. To use a schedule of your
        own, as for T5 and PaLM, pass relative_step=False. AdamW with state_dtype=torch.bfloat16 is the alternative
        with half of AdamW's memory.

    Args:
        params: parameters, named parameters, or groups of them.
        lr: largest step length relative to the size of the parameter, >= 0; a number or a one-element tensor.
        beta2_decay: the running means of squared gradients have the decay 1 − t^beta2_decay, <= 0.
        eps: lower limits: of the denominator, >= 0 (None means the machine epsilon of the dtype), and of the root mean
            square of the parameter, >= 0, so that parameters at 0 can move.
        d: an update with a larger root mean square than this is scaled down to it, >= 1.
        weight_decay: each step multiplies the parameter by 1 − lr·weight_decay.
        beta1: decay of the running mean of the steps, in [0, 1); None means no momentum and no state for it.
        scale_parameter: False makes the step length absolute instead of relative to the size of the parameter.
        relative_step: False uses lr as it is, instead of min(lr, 1/√t).
        maximize, foreach, backend …: options of every optimizer, see `fallline.core.common_options.CommonOptions`.

    Raises:
        ArgumentError: a hyperparameter is out of range.
        GradientError: in `step`, a gradient is sparse or does not match its parameter.

    Example:
        >>> import torch, fallline as fl
        >>> w = torch.nn.Parameter(torch.full((2, 3), 4.0))
        >>> opt = fl.Adafactor([w], lr=0.01)
        >>> w.grad = torch.ones(2, 3)
        >>> opt.step()
        >>> round(w[0, 0].item(), 4), {key: tuple(value.shape) for key, value in opt.state[w].items()}
        (3.96, {'row_var': (2, 1), 'col_var': (1, 3), 'step': ()})
    """

    rule = adafactor

    def __init__(
        self,
        params: Params,
        lr: Scalar = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        beta1: float | None = None,
        scale_parameter: bool = True,
        relative_step: bool = True,
        differentiable: bool = False,
        **options: Unpack[ExtraOptions],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            beta2_decay=beta2_decay,
            eps=eps,
            d=d,
            weight_decay=weight_decay,
            foreach=foreach,
            maximize=maximize,
            beta1=beta1,
            scale_parameter=scale_parameter,
            relative_step=relative_step,
            differentiable=differentiable,
            **options,
        )

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        name, eps = type(self).__name__, group["eps"]
        if group["beta2_decay"] > 0:
            raise ArgumentError(
                f"{name}: beta2_decay must be a finite number <= 0, got {group['beta2_decay']:g}; leave it out for −0.8"
            )
        if not isinstance(eps, (tuple, list)) or len(eps) != 2 or not _is_limit(eps[1]):
            raise ArgumentError(f"{name}: eps must be two numbers >= 0, got {eps!r}; leave it out for (None, 0.001)")
        if eps[0] is not None and not _is_limit(eps[0]):
            raise ArgumentError(f"{name}: eps[0] must be a finite number >= 0 or None, got {eps[0]!r}; pass None")


def _is_limit(value: Any) -> bool:
    return is_number(value) and 0 <= value < math.inf
