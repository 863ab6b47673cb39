"""A linear warm-up, then decay by the inverse square root of the step, without an end."""

import math
from dataclasses import dataclass

from fallline.schedules.base import Schedule, derive_constructor
from fallline.schedules.scheduler import Scheduler
from fallline.schedules.warmup import ramp


@dataclass(frozen=True, repr=False)
class inverse_sqrt(Schedule):
    """Rise to the base learning rate, then fall as 1/√s: `lr(k) = b·min(s/W, √(W/s))` with `s = k + 1`.

    This is the schedule of the original transformer (Vaswani et al. 2017, section 5.3), scaled so that the peak is the
    base learning rate. It has no end.

    Args:
        warmup_steps: W, the steps of the warm-up, >= 1.

    Raises:
        ArgumentTypeError, ArgumentError: an argument is outside those limits.

    Example:
        >>> from fallline.schedules import inverse_sqrt
        >>> [inverse_sqrt(2)(k) for k in (0, 1, 7, 31)]
        [0.5, 1.0, 0.5, 0.25]
    """

    warmup_steps: int

    def __post_init__(self) -> None:
        self._integer("warmup_steps", 1)

    @property
    def corners(self) -> tuple[int, ...]:
        """The first step, the peak, and the step at which the rate is half the peak."""
        return tuple(sorted({0, self.warmup_steps - 1, 4 * self.warmup_steps - 1}))

    def value(self, k: int, base: float) -> float:
        """Return the learning rate at step `k`."""
        s = k + 1
        return ramp(s, self.warmup_steps, base) if s <= self.warmup_steps else base * math.sqrt(self.warmup_steps / s)


@derive_constructor(inverse_sqrt)
class InverseSqrt(Scheduler):
    """Warm up each group, then decay by the inverse square root of the step; the `LRScheduler` for `inverse_sqrt`.

    Example:
        >>> import torch
        >>> from fallline.schedules import InverseSqrt
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> InverseSqrt(optimizer, warmup_steps=4, last_epoch=-1).get_last_lr()
        [0.25]
    """
