"""A power of the part that is left, after a warm-up if wanted."""

import math
from dataclasses import dataclass

from fallline.schedules.base import derive_constructor
from fallline.schedules.scheduler import Scheduler
from fallline.schedules.warmup import WarmedUp


@dataclass(frozen=True, repr=False)
class polynomial(WarmedUp):
    """Fall to `min_lr` as a power of the part of the steps that is left, after a linear warm-up if wanted.

    With `s = k + 1`, W `warmup_steps` and T `total_steps`: `lr(k) = b·s/W` for `s < W`, else
    `min_lr + (b − min_lr)·(1 − (s − W)/(T − W))^power`; `min_lr` from `s = T` on.

    Args:
        total_steps: all steps, >= 1; the last has `min_lr`.
        power: > 0; 1 is `linear`, 2 leaves the peak at twice its slope and ends flat.
        min_lr: the final learning rate, >= 0.
        min_lr_ratio: the same as a part of the base learning rate; give one of the two.
        warmup_steps: steps of the rise, 0 to `total_steps`; a float below 1 is that fraction of them, rounded.

    Raises:
        ArgumentTypeError, ArgumentError: an argument is outside those limits.

    Example:
        >>> from fallline.schedules import polynomial
        >>> [polynomial(4, power=2)(k) for k in range(5)]
        [0.5625, 0.25, 0.0625, 0.0, 0.0]
    """

    total_steps: int
    power: float = 1.0
    min_lr: float = 0.0
    warmup_steps: int | float = 0
    min_lr_ratio: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._number("power", above_zero=True)

    def fall(self, progress: float, base: float, lowest: float) -> float:
        """Return the power."""
        return lowest + (base - lowest) * math.pow(1 - progress, self.power)


@derive_constructor(polynomial, per_group="min_lr")
class Polynomial(Scheduler):
    """Take each group to `min_lr` by a power, after a warm-up if wanted; the `LRScheduler` over `polynomial`.

    Example:
        >>> import torch
        >>> from fallline.schedules import Polynomial
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> Polynomial(optimizer, total_steps=4, power=2).get_last_lr()
        [0.5625]
    """
