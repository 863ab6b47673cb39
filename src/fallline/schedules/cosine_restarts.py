"""Cosine annealing with restarts."""

from dataclasses import dataclass

from fallline.schedules.base import Schedule, derive_constructor
from fallline.schedules.cosine import half_cosine
from fallline.schedules.scheduler import Scheduler
from fallline.schedules.warmup import ramp


@dataclass(frozen=True, repr=False)
class cosine_restarts(Schedule):
    """Repeat cycles that fall along half a cosine and restart at the base learning rate: SGDR (arXiv:1608.03983).

    Cycle c (counted from 0) has P = period·mult^c steps. At its step j = 0 … P − 1 the learning rate is
    `min_lr + (b·gamma^c − min_lr)·(1 + cos(π·j/P))/2`. The first step of a cycle is its peak, and `min_lr` is
    approached but not reached, as in PyTorch's `CosineAnnealingWarmRestarts`. A warm-up ends at the first peak.

    Args:
        period: steps of the first cycle, >= 1.
        mult: factor of the length from one cycle to the next, an int >= 1.
        min_lr: the lowest learning rate, >= 0.
        min_lr_ratio: the lowest learning rate as a fraction of the base learning rate; give only one of the two.
        warmup_steps: steps of the warm-up, >= 0; the last is the peak.
        gamma: factor of the peak from one cycle to the next, in [0, 1].

    Raises:
        ArgumentTypeError, ArgumentError: an argument is outside those limits.

    Example:
        >>> from fallline.schedules import cosine_restarts
        >>> [round(cosine_restarts(2, mult=2, gamma=0.5)(k), 3) for k in range(8)]
        [1.0, 0.5, 0.5, 0.427, 0.25, 0.073, 0.25, 0.24]
    """

    period: int
    mult: int = 1
    min_lr: float = 0.0
    warmup_steps: int = 0
    gamma: float = 1.0
    min_lr_ratio: float | None = None

    def __post_init__(self) -> None:
        self._integer("period", 1)
        self._integer("mult", 1)
        self._integer("warmup_steps", 0)
        self._number("gamma", maximum=1.0)
        self._floor()

    def _cycle(self, j: int) -> tuple[int, int, int]:
        """Return the index of the cycle of the j-th step after the warm-up, the step in the cycle, and its length."""
        if self.mult == 1:
            return j // self.period, j % self.period, self.period
        cycle, length = 0, self.period
        while j >= length:  # few iterations, because the lengths grow geometrically
            cycle, j, length = cycle + 1, j - length, length * self.mult
        return cycle, j, length

    @property
    def corners(self) -> tuple[int, ...]:
        """The first step and the first three peaks."""
        first = max(self.warmup_steps - 1, 0)
        peaks = (first, first + self.period, first + self.period * (1 + self.mult))
        return tuple(sorted({0, *peaks}))

    @property
    def horizon(self) -> int:
        """The warm-up and three cycles."""
        return self.corners[-1] + self.period * self.mult**2

    def value(self, k: int, base: float) -> float:
        """Return the learning rate at step `k`."""
        if k + 1 < self.warmup_steps:
            return ramp(k + 1, self.warmup_steps, base)
        cycle, j, length = self._cycle(k - max(self.warmup_steps - 1, 0))
        return half_cosine(base * self.gamma**cycle, self._lowest(base), j / length)


@derive_constructor(cosine_restarts, per_group="min_lr")
class CosineRestarts(Scheduler):
    """Anneal each group along half a cosine with restarts; the `LRScheduler` for `cosine_restarts`.

    Example:
        >>> import torch
        >>> from fallline.schedules import CosineRestarts
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> CosineRestarts(optimizer, period=10, warmup_steps=4).get_last_lr()
        [0.25]
    """
