"""Polynomial decay with an optional warm-up."""

import math
from dataclasses import dataclass

from fallline.schedules.base import derive_constructor
from fallline.schedules.scheduler import Scheduler
from fallline.schedules.warmup import WarmedUp


@dataclass(frozen=True, repr=False)
class polynomial(WarmedUp):
    """Fall to `min_lr` as a power of the fraction of steps that remain, after an optional linear warm-up.

    With `s = k + 1`, W `warmup_steps` and T `total_steps`: `lr(k) = b·s/W` for `s < W`, else
    `min_lr + (b − min_lr)·(1 − (s − W)/(T − W))^power`; `min_lr` from `s = T` on.

    Args:
        total_steps: number of all steps, >= 1; the last has `min_lr`.
        power: exponent, > 0; 1 is `linear`; 2 starts with twice the slope of `linear` and ends flat.
        min_lr: the final learning rate, >= 0.
        min_lr_ratio: the final learning rate as a fraction of the base learning rate; give only one of the two.
        warmup_steps: steps of the warm-up, 0 to `total_steps`; a float below 1 is a fraction of `total_steps`, rounded.

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
        """Return the learning rate on the polynomial."""
        return lowest + (base - lowest) * math.pow(1 - progress, self.power)


@derive_constructor(polynomial, per_group="min_lr")
class Polynomial(Scheduler):
    """Decay each group polynomially to `min_lr`, after an optional warm-up; the `LRScheduler` for `polynomial`.

    Example:
        >>> import torch
        >>> from fallline.schedules import Polynomial
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> Polynomial(optimizer, total_steps=4, power=2).get_last_lr()
        [0.5625]
    """
