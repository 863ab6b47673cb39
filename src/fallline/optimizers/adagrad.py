"""Adagrad: the gradient divided by the root of the sum of its squares."""

from typing import Any

from typing_extensions import Unpack

from fallline.core.common_options import ExtraOptions
from fallline.core.optimizer import Optimizer, Params, Scalar
from fallline.rules.ops import sqrt, where
from fallline.rules.ranges import NON_NEGATIVE
from fallline.rules.rule import rule


def stability(sum: Any, *, lr_decay: Any, eps: Any, step: Any) -> tuple[Any, Any]:
    """Return P = (√s + eps)·(1 + (t − 1)·lr_decay), and the constant of gradient descent, 2."""
    return (sqrt(sum) + eps) * (1 + (step - 1) * lr_decay), 2


@rule(
    state={"sum": None},
    non_negative=("sum",),
    ranges={"lr_decay": NON_NEGATIVE, "initial_accumulator_value": NON_NEGATIVE, "eps": NON_NEGATIVE},
    formula="s = s + g²;  p −= lr/(1 + (t − 1)·lr_decay)·g/(√s + eps)",
    source="Duchi et al. 2011, JMLR 12:2121–2159, figure 1, diagonal matrices",
    stability=stability,
)
def adagrad(
    param: Any,
    grad: Any,
    sum: Any,
    *,
    lr: Any,
    lr_decay: Any,
    initial_accumulator_value: Any,
    eps: Any,
    step: Any,
    first: Any,
) -> tuple[Any, ...]:
    """Divide each gradient by the square root of the sum of all its squares so far.

    State:   sum: like param, starts at initial_accumulator_value. Sum of squared gradients.
             step: number of updates of this parameter, 1 in the first update.
    Hyper:   lr: step length in param units, >= 0.  lr_decay: decrease of the step length per update, >= 0.
             initial_accumulator_value: squared gradient units, >= 0.  eps: gradient units, outside the root.
    Follows: Duchi et al. 2011, "Adaptive subgradient methods", JMLR 12:2121–2159, figure 1, composite mirror descent
             with diagonal matrices, in PyTorch's form.
    Differs: the sum may start above 0, and the step length may decay with `lr_decay`, both as in PyTorch; eps is δ in
             the paper. There is no bias to correct, because sum is not a mean. Decoupled decay is not divided by
             1 + (t − 1)·lr_decay.
    """
    # New state is created as 0. `first` is false for the state of PyTorch, which has the initial value in it already.
    sum = sum + where(first, initial_accumulator_value, 0) + grad * grad
    rate = lr / (1 + (step - 1) * lr_decay)
    return param - rate * (grad / (sqrt(sum) + eps)), sum


class Adagrad(Optimizer):
    """Adagrad, a drop-in replacement for `torch.optim.Adagrad`.

    Use when: most gradients of a parameter are zero, as in embeddings of rare words and click-through models. Rare
        features keep a large step length, and the sum never forgets, so the steps become shorter by themselves, as
        1/√t for gradients of constant size. For long trainings of deep networks this is too fast; use AdamW.

    Args:
        params: parameters, named parameters, or groups of them.
        lr: learning rate, >= 0; a number or a one-element tensor.
        lr_decay: update t uses lr/(1 + (t − 1)·lr_decay), >= 0.
        weight_decay: L2 penalty, added to the gradient unless `weight_decay_mode` is changed.
        initial_accumulator_value: value at which the sum of squares starts, >= 0; it shortens the first steps.
        eps: added to the denominator, outside the root, >= 0.
        maximize, foreach, backend …: options of every optimizer, see `fallline.core.common_options.CommonOptions`.

    Raises:
        ArgumentError: a hyperparameter is out of range.
        GradientError: in `step`, a gradient is sparse or does not match its parameter.

    Example:
        >>> import torch, fallline as fl
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> opt = fl.Adagrad([w], lr=0.1, initial_accumulator_value=7.0)
        >>> w.grad = torch.tensor([3.0])
        >>> opt.step()
        >>> round(w.item(), 4)  # 1 − 0.1·3/√(7 + 3²)
        0.925
    """

    rule = adagrad

    def __init__(
        self,
        params: Params,
        lr: Scalar = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[ExtraOptions],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            fused=fused,
            **options,
        )
