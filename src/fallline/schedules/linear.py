"""A straight line from the base learning rate to `min_lr`, after a warm-up if wanted."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch.optim import Optimizer

from fallline.schedules.base import per_group
from fallline.schedules.scheduler import Scheduler
from fallline.schedules.warmup import WarmedUp


def line(start: float, end: float, progress: float) -> float:
    """Return the point of a line from `start` (progress 0) to `end` (progress 1)."""
    return start + (end - start) * progress


@dataclass(frozen=True, repr=False)
class linear(WarmedUp):
    """Fall along a line to `min_lr`, after a linear warm-up if wanted.

    With `s = k + 1`, W `warmup_steps` and T `total_steps`: `lr(k) = b·s/W` for `s < W`, else
    `b + (min_lr − b)·(s − W)/(T − W)`; `min_lr` from `s = T` on.

    Args:
        total_steps: all steps, >= 1; the last has `min_lr`.
        min_lr: the final learning rate, >= 0.
        min_lr_ratio: the same as a part of the base learning rate; give one of the two.
        warmup_steps: steps of the rise, 0 to `total_steps`; a float below 1 is that fraction of them, rounded.

    Raises:
        ArgumentTypeError, ArgumentError: an argument is outside those limits.

    Example:
        >>> from fallline.schedules import linear
        >>> [linear(4)(k) for k in range(5)]
        [0.75, 0.5, 0.25, 0.0, 0.0]
        >>> [linear(6, min_lr=0.5, warmup_steps=2)(k) for k in range(6)]
        [0.5, 1.0, 0.875, 0.75, 0.625, 0.5]
    """

    total_steps: int
    min_lr: float = 0.0
    warmup_steps: int | float = 0
    min_lr_ratio: float | None = None

    def fall(self, progress: float, base: float, lowest: float) -> float:
        """Return the point of the line."""
        return line(base, lowest, progress)


class Linear(Scheduler):
    """Take each group along a line to `min_lr`, after a warm-up if wanted; the `LRScheduler` over `linear`.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        total_steps: all steps, >= 1; the last has `min_lr`.
        min_lr: the final learning rate, >= 0; a list gives each group its own.
        warmup_steps: steps of the rise, 0 to `total_steps`; a float below 1 is that fraction of them, rounded.
        min_lr_ratio: the same as a part of each group's base learning rate; give one of the two.
        last_epoch: -1 to start; `k - 1` to go on at step `k`.

    Raises:
        ArgumentTypeError, ArgumentError: an argument is outside those limits.

    Example:
        >>> import torch
        >>> from fallline.schedules import Linear
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> Linear(optimizer, total_steps=10, min_lr_ratio=0.1, warmup_steps=0.2).get_last_lr()
        [0.5]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        min_lr: float | Sequence[float] = 0.0,
        warmup_steps: int | float = 0,
        min_lr_ratio: float | None = None,
        last_epoch: int = -1,
    ) -> None:
        schedule = per_group(lambda m: linear(total_steps, m, warmup_steps, min_lr_ratio), min_lr)
        super().__init__(optimizer, schedule, last_epoch)
