"""Linear decay from the base learning rate to `min_lr`, with an optional warm-up."""

from dataclasses import dataclass

from fallline.schedules.base import derive_constructor
from fallline.schedules.scheduler import Scheduler
from fallline.schedules.warmup import WarmedUp


def line(start: float, end: float, progress: float) -> float:
    """Return the value of a line from `start` (progress 0) to `end` (progress 1)."""
    return start + (end - start) * progress


@dataclass(frozen=True, repr=False)
class linear(WarmedUp):
    """Fall linearly to `min_lr`, after an optional linear warm-up.

    With `s = k + 1`, W `warmup_steps` and T `total_steps`: `lr(k) = b·s/W` for `s < W`, else
    `b + (min_lr − b)·(s − W)/(T − W)`; `min_lr` from `s = T` on.

    Args:
        total_steps: number of all steps, >= 1; the last has `min_lr`.
        min_lr: the final learning rate, >= 0.
        min_lr_ratio: the final learning rate as a fraction of the base learning rate; give only one of the two.
        warmup_steps: steps of the warm-up, 0 to `total_steps`; a float below 1 is a fraction of `total_steps`, rounded.

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
        """Return the learning rate on the line."""
        return line(base, lowest, progress)


@derive_constructor(linear, per_group="min_lr")
class Linear(Scheduler):
    """Decay each group linearly to `min_lr`, after an optional warm-up; the `LRScheduler` for `linear`.

    Example:
        >>> import torch
        >>> from fallline.schedules import Linear
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> Linear(optimizer, total_steps=10, min_lr_ratio=0.1, warmup_steps=0.2).get_last_lr()
        [0.5]
    """
