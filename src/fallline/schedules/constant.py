"""The constant schedule."""

from dataclasses import dataclass

from torch.optim import Optimizer

from fallline.schedules.base import Schedule
from fallline.schedules.scheduler import Scheduler


@dataclass(frozen=True, repr=False)
class constant(Schedule):
    """Keep the base learning rate: `lr(k) = b`.

    Args:
        steps: length of the schedule, >= 1; needed only if another part follows with `then`.

    Raises:
        ArgumentTypeError, ArgumentError: an argument is outside those limits.

    Example:
        >>> from fallline.schedules import constant
        >>> constant()(7, base=0.1)
        0.1
    """

    steps: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None:
            self._integer("steps", 1)

    @property
    def length(self) -> int | None:
        """`steps`."""
        return self.steps

    def value(self, k: int, base: float) -> float:
        """Return `base`."""
        return base


class Constant(Scheduler):
    """Keep the base learning rate of each group; the `LRScheduler` for `constant`.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        last_epoch: -1 to start; `k - 1` to resume at step `k`.

    Example:
        >>> import torch
        >>> from fallline.schedules import Constant
        >>> Constant(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)).get_last_lr()
        [0.1]
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        super().__init__(optimizer, constant(), last_epoch)
