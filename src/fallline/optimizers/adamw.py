"""AdamW: Adam with decoupled weight decay, which does not enter the running means of the gradient."""

from typing_extensions import Unpack

from fallline.core.common_options import CommonOptions
from fallline.core.optimizer import Optimizer, Params, Scalar
from fallline.optimizers.adam import adam
from fallline.rules.rule import Rule

# AdamW has the function of Adam; only the weight decay mode differs, which rules/update.py applies before the step.
adamw = Rule(
    name="adamw",
    function=adam.function,
    state=adam.state,
    non_negative=adam.non_negative,
    ranges=adam.ranges,
    exact=adam.exact,
    stability=adam.stability,
    formula="p ·= 1 − lr·wd;  then Adam",
    source="Loshchilov & Hutter 2019, arXiv:1711.05101v3, algorithm 2",
    weight_decay_modes=("decoupled", "independent", "l2"),
)


class AdamW(Optimizer):
    """Adam with decoupled weight decay, a drop-in replacement for `torch.optim.AdamW`.

    Weight decay is applied before the step, as in PyTorch; applying it after the step would differ by lr²·weight_decay.
    The strength of the decay is lr·weight_decay, so when you double lr, halve weight_decay to keep it.
    `weight_decay_mode="independent"` makes the strength independent of the base lr.

    Use when: the model is a transformer, or there is no reason for another optimizer. Warm up to an lr of 1e-4 to 3e-4,
        or 5e-5 for fine-tuning, with a weight_decay of 0.01 to 0.1; language models usually use betas=(0.9, 0.95). If
        the second moment lags behind a growing gradient, the loss spikes; a smaller beta2 or a longer warm-up helps.

    Args:
        params: parameters, named parameters, or groups of them.
        lr: learning rate, >= 0; a number or a one-element tensor.
        betas: decay of the running means of the gradient and of its square, each in [0, 1).
        eps: added to the denominator, outside the root, >= 0.
        weight_decay: each step multiplies the parameter by 1 − lr·weight_decay.
        amsgrad: divide by the largest second moment so far.
        maximize, foreach, backend …: options of every optimizer, see `fallline.core.common_options.CommonOptions`.

    Raises:
        ArgumentError: a hyperparameter is out of range.
        GradientError: in `step`, a gradient is sparse or does not match its parameter.

    Example:
        >>> import torch, fallline as fl
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> opt = fl.AdamW([w], lr=0.1, weight_decay=0.5)
        >>> w.grad = torch.tensor([5.0])
        >>> opt.step()
        >>> round(w.item(), 4)  # 1·(1 − 0.1·0.5) − 0.1
        0.85
    """

    rule = adamw

    def __init__(
        self,
        params: Params,
        lr: Scalar = 1e-3,
        betas: tuple[Scalar, Scalar] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        **options: Unpack[CommonOptions],
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, **options)
