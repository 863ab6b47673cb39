"""The formulas that the schedule-free optimizers share: the update of y and z, and the weights of the average x.

Three points belong to each parameter (Defazio et al. 2024, arXiv:2405.15682): z takes the steps of the base optimizer,
x is the weighted average of all z, and y = (1 − β)·z + β·x is where gradients are computed.
"""

from typing import Any

from fallline.rules.ops import maximum, minimum, where


def warmed_up(lr: Any, warmup_steps: Any, step: Any) -> Any:
    """Return the learning rate of a step: lr·step/warmup_steps at first, then lr."""
    return lr * minimum(step / maximum(warmup_steps, 1), 1)


def weight(lr_max: Any, r: Any, weight_lr_power: Any, step: Any) -> Any:
    """Return the weight of a step in the average x, before normalization."""
    return step**r * lr_max**weight_lr_power


def add_weight(
    lr_max: float, weight_sum: float, lr: float, warmup_steps: float, r: float, weight_lr_power: float, step: float
) -> tuple[float, float]:
    """Return the highest learning rate so far, and the sum of the weights of all steps."""
    lr_max = max(lr_max, warmed_up(lr, warmup_steps, step))
    return lr_max, weight_sum + weight(lr_max, r, weight_lr_power, step)


def fraction(lr_max: Any, weight_sum: Any, r: Any, weight_lr_power: Any, step: Any) -> Any:
    """Return the share c of this step in the average: x moves by c·(z − x); 0 while all learning rates are 0."""
    return weight(lr_max, r, weight_lr_power, step) / where(weight_sum > 0, weight_sum, 1)


def move(y: Any, z: Any, direction: Any, lr: Any, momentum: Any, c: Any) -> tuple[Any, Any]:
    """Return y and z after a step of z along −direction, without computing x."""
    return y + c * (z - y) + (lr * (momentum * (1 - c) - 1)) * direction, z - lr * direction
