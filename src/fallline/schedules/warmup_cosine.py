"""A linear warm-up, then cosine annealing."""

from dataclasses import dataclass

from fallline.schedules.base import derive_constructor
from fallline.schedules.cosine import half_cosine
from fallline.schedules.scheduler import Scheduler
from fallline.schedules.warmup import WarmedUp


@dataclass(frozen=True, repr=False)
class warmup_cosine(WarmedUp):
    """Rise linearly to the base learning rate, then anneal along half a cosine to `min_lr`.

    With `s = k + 1`, W `warmup_steps` and T `total_steps`: `lr(k) = b·s/W` for `s < W`, else
    `min_lr + (b − min_lr)·(1 + cos(π·(s − W)/(T − W)))/2`, and `min_lr` for `s > T`. So the first step is not wasted
    with a rate of 0, the peak `b` is at `k = W − 1`, and the last step, `k = T − 1`, has `min_lr` (or `b` if W = T).

    Args:
        warmup_steps: steps of the warm-up, 0 to `total_steps`; a float below 1 is a fraction of `total_steps`, rounded.
        total_steps: number of all steps, >= 1.
        min_lr: the final learning rate, >= 0.
        min_lr_ratio: the final learning rate as a fraction of the base learning rate; give only one of the two.

    Raises:
        ArgumentTypeError, ArgumentError: an argument is outside those limits.

    Example:
        >>> from fallline.schedules import warmup_cosine
        >>> schedule = warmup_cosine(3, 10)
        >>> [round(schedule(k), 3) for k in range(11)]
        [0.333, 0.667, 1.0, 0.95, 0.812, 0.611, 0.389, 0.188, 0.05, 0.0, 0.0]
        >>> warmup_cosine(0.25, 1000)
        warmup_cosine(warmup_steps=250, total_steps=1000, min_lr=0.0)
    """

    warmup_steps: int | float
    total_steps: int
    min_lr: float = 0.0
    min_lr_ratio: float | None = None

    def fall(self, progress: float, base: float, lowest: float) -> float:
        """Return the learning rate on the cosine."""
        return half_cosine(base, lowest, progress)


@derive_constructor(warmup_cosine, per_group="min_lr")
class WarmupCosine(Scheduler):
    """Warm up each group to its base learning rate, then anneal it to `min_lr`; the `LRScheduler` for `warmup_cosine`.

    Example:
        >>> import torch
        >>> from fallline.schedules import WarmupCosine
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
        >>> scheduler = WarmupCosine(optimizer, warmup_steps=4, total_steps=10)
        >>> scheduler.get_last_lr()
        [0.025]
        >>> optimizer.step()
        >>> scheduler.step()
        >>> scheduler.get_last_lr()
        [0.05]
    """
