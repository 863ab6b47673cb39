"""A linear warm-up, alone or followed by a decay."""

from abc import abstractmethod
from dataclasses import dataclass

from fallline.schedules.base import Schedule, check_warmup, derive_constructor
from fallline.schedules.scheduler import Scheduler


def ramp(s: int, warmup_steps: float, base: float) -> float:
    """Return the learning rate of the s-th step (counted from 1) of a warm-up; exactly `base` at the last step."""
    return base * (s / warmup_steps)


class WarmedUp(Schedule):
    """A schedule in s = k + 1: a linear warm-up to the base learning rate at s = W, then a fall to min_lr at s = T.

    A subclass has the fields `warmup_steps`, `total_steps`, `min_lr` and `min_lr_ratio`, and implements `fall`.
    """

    warmup_steps: int | float
    total_steps: int

    def __post_init__(self) -> None:
        self._integer("total_steps", 1)
        self._floor()
        self._set("warmup_steps", check_warmup(type(self).__name__, self.warmup_steps, self.total_steps))

    @property
    def corners(self) -> tuple[int, ...]:
        """The first step, the peak, and the last step."""
        return tuple(sorted({0, max(int(self.warmup_steps) - 1, 0), self.total_steps - 1}))

    @abstractmethod
    def fall(self, progress: float, base: float, lowest: float) -> float:
        """Return the learning rate when the fraction `progress`, in (0, 1), of the steps after the warm-up is done."""

    def value(self, k: int, base: float) -> float:
        """Return the learning rate at step `k`."""
        s, lowest = k + 1, self._lowest(base)
        if s <= self.warmup_steps:
            return ramp(s, self.warmup_steps, base)
        if s >= self.total_steps:
            return lowest
        return self.fall((s - self.warmup_steps) / (self.total_steps - self.warmup_steps), base, lowest)


@dataclass(frozen=True, repr=False)
class warmup(Schedule):
    """Rise linearly to the base learning rate and stay there: `lr(k) = b·min(1, (k + 1)/W)`, with W `warmup_steps`.

    Args:
        warmup_steps: steps of the warm-up, >= 1.

    Raises:
        ArgumentTypeError, ArgumentError: an argument is outside those limits.

    Example:
        >>> from fallline.schedules import cosine, warmup
        >>> [warmup(4)(k) for k in range(6)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
        >>> warmup(100).then(cosine(900)).length
        999
    """

    warmup_steps: int

    def __post_init__(self) -> None:
        self._integer("warmup_steps", 1)

    @property
    def length(self) -> int:
        """`warmup_steps`."""
        return self.warmup_steps

    @property
    def corners(self) -> tuple[int, ...]:
        """The first step and the peak."""
        return tuple(sorted({0, self.warmup_steps - 1}))

    def value(self, k: int, base: float) -> float:
        """Return the learning rate at step `k`."""
        return ramp(k + 1, self.warmup_steps, base) if k + 1 < self.warmup_steps else base


@derive_constructor(warmup)
class Warmup(Scheduler):
    """Warm up each group to its base learning rate and keep it; the `LRScheduler` for `warmup`.

    Example:
        >>> import torch
        >>> from fallline.schedules import Warmup
        >>> Warmup(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1), warmup_steps=4).get_last_lr()
        [0.025]
    """
