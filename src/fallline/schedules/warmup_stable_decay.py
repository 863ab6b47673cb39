"""A linear warm-up, a plateau, and a decay of selectable shape."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from fallline.errors import ArgumentError
from fallline.schedules.base import Schedule, check_warmup, derive_constructor
from fallline.schedules.scheduler import Scheduler
from fallline.schedules.warmup import ramp

SHAPES: dict[str, Callable[[float], float]] = {  # from 1 at progress 0 to 0 at progress 1
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "1-sqrt": lambda progress: 1 - math.sqrt(progress),
}


@dataclass(frozen=True, repr=False)
class warmup_stable_decay(Schedule):
    """Rise to the base learning rate, stay there, then fall to `min_lr` at the last step.

    With `s = k + 1` and W, S and D steps in the three parts: `b·s/W` for `s < W`, `b` until `s = W + S`, then
    `min_lr + (b − min_lr)·shape((s − W − S)/D)`. You can extend the plateau, or start a decay from any of its steps,
    at any time (Hu et al. 2024, arXiv:2404.06395; "1-sqrt" is from Hägele et al. 2024, arXiv:2405.18392).

    Args:
        warmup_steps: steps of the warm-up, >= 0; a float below 1 is a fraction of all steps, rounded.
        stable_steps: steps of the plateau, >= 0.
        decay_steps: steps of the decay, >= 1.
        min_lr: the final learning rate, >= 0.
        min_lr_ratio: the final learning rate as a fraction of the base learning rate; give only one of the two.
        shape: "linear" (1 − x), "cosine" ((1 + cos πx)/2) or "1-sqrt" (1 − √x).

    Raises:
        ArgumentTypeError, ArgumentError: an argument is outside those limits.

    Example:
        >>> from fallline.schedules import warmup_stable_decay
        >>> [warmup_stable_decay(2, 3, 4)(k) for k in range(10)]
        [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
        >>> warmup_stable_decay(0.1, 60, 30).warmup_steps
        10
    """

    warmup_steps: int | float
    stable_steps: int
    decay_steps: int
    min_lr: float = 0.0
    shape: str = "linear"
    min_lr_ratio: float | None = None

    def __post_init__(self) -> None:
        self._integer("stable_steps", 0)
        self._integer("decay_steps", 1)
        self._floor()
        if self.shape not in SHAPES:
            raise ArgumentError(
                f"warmup_stable_decay: shape must be one of {', '.join(SHAPES)}, got shape={self.shape!r}; "
                "leave it out for 'linear'"
            )
        rest = self.stable_steps + self.decay_steps
        part = self.warmup_steps
        total = round(rest / (1 - part)) if isinstance(part, float) and 0 <= part < 1 else rest + 2**62
        steps = total - rest if total < rest + 2**62 else check_warmup("warmup_stable_decay", part, total)
        self._set("warmup_steps", steps)

    @property
    def length(self) -> int:
        """The total length of the three parts."""
        return int(self.warmup_steps) + self.stable_steps + self.decay_steps

    @property
    def corners(self) -> tuple[int, ...]:
        """The first step, the peak, the last step of the plateau, and the last step."""
        top = max(int(self.warmup_steps) - 1, 0)
        return tuple(sorted({0, top, max(self.length - self.decay_steps - 1, 0), self.length - 1}))

    def value(self, k: int, base: float) -> float:
        """Return the learning rate at step `k`."""
        s, lowest = k + 1, self._lowest(base)
        if s < self.warmup_steps:
            return ramp(s, self.warmup_steps, base)
        if s >= self.length:
            return lowest
        progress = (s - self.length) / self.decay_steps + 1
        return base if progress <= 0 else lowest + (base - lowest) * SHAPES[self.shape](progress)


@derive_constructor(warmup_stable_decay, per_group="min_lr")
class WarmupStableDecay(Scheduler):
    """Warm up each group, keep its rate, then decay it to `min_lr`; the `LRScheduler` for `warmup_stable_decay`.

    Example:
        >>> import torch
        >>> from fallline.schedules import WarmupStableDecay
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> WarmupStableDecay(optimizer, warmup_steps=2, stable_steps=8, decay_steps=2).get_last_lr()
        [0.5]
    """
