"""Cosine annealing from the base learning rate to `min_lr`."""

import math
from dataclasses import dataclass
from typing import ClassVar

from fallline.schedules.base import Schedule, derive_constructor
from fallline.schedules.scheduler import Scheduler


def half_cosine(start: float, end: float, progress: float) -> float:
    """Return the value of half a cosine from `start` (progress <= 0) to `end` (progress >= 1), exact at both ends."""
    if progress <= 0:  # end + (start − end)·1 may not round to exactly start
        return start
    if progress >= 1:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True, repr=False)
class cosine(Schedule):
    """Anneal along half a cosine: `lr(k) = min_lr + (b − min_lr)·(1 + cos(π·min(k, T)/T))/2`, with T `total_steps`.

    Args:
        total_steps: the step from which on the learning rate is `min_lr`, >= 1.
        min_lr: the final learning rate, >= 0.
        min_lr_ratio: the final learning rate as a fraction of the base learning rate; give only one of the two.

    Raises:
        ArgumentTypeError, ArgumentError: an argument is outside those limits.

    Example:
        >>> from fallline.schedules import cosine
        >>> [round(cosine(total_steps=4, min_lr=0.2)(k), 3) for k in range(6)]
        [1.0, 0.883, 0.6, 0.317, 0.2, 0.2]
    """

    second_from: ClassVar[int] = 1
    total_steps: int
    min_lr: float = 0.0
    min_lr_ratio: float | None = None

    def __post_init__(self) -> None:
        self._integer("total_steps", 1)
        self._floor()

    @property
    def corners(self) -> tuple[int, ...]:
        """The start and the end."""
        return (0, self.total_steps)

    def value(self, k: int, base: float) -> float:
        """Return the learning rate at step `k`."""
        return half_cosine(base, self._lowest(base), k / self.total_steps)


@derive_constructor(cosine, per_group="min_lr")
class Cosine(Scheduler):
    """Anneal each group from its base learning rate to `min_lr`; the `LRScheduler` for `cosine`.

    Up to `total_steps` it equals PyTorch's `CosineAnnealingLR`, which then rises again; this one stays at `min_lr`.

    Example:
        >>> import torch
        >>> from fallline.schedules import Cosine
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
        >>> scheduler = Cosine(optimizer, total_steps=3)
        >>> optimizer.step()
        >>> scheduler.step()
        >>> round(scheduler.get_last_lr()[0], 6)  # 0.1·(1 + cos(π/3))/2
        0.075
    """
