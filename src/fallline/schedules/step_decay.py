"""Decay by a factor at regular intervals or at given steps."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from fallline.arguments import check_integer
from fallline.errors import ArgumentError, ArgumentTypeError
from fallline.schedules.base import Schedule, derive_constructor
from fallline.schedules.scheduler import Scheduler


@dataclass(frozen=True, repr=False)
class step_decay(Schedule):
    """Multiply by `gamma` every `step_size` steps, `lr(k) = b·gamma^(k // step_size)`, or at each milestone.

    Args:
        step_size: steps between two decays, >= 1; give either this or `milestones`.
        gamma: the factor, >= 0; above 1, the learning rate grows.
        milestones: the steps of the decays, increasing, each >= 1.

    Raises:
        ArgumentTypeError, ArgumentError: an argument is outside those limits.

    Example:
        >>> from fallline.schedules import step_decay
        >>> decay = step_decay(step_size=2, gamma=0.5)
        >>> [decay(k) for k in range(6)]
        [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
        >>> decay = step_decay(gamma=0.5, milestones=[1, 4])
        >>> [decay(k) for k in range(6)]
        [1.0, 0.5, 0.5, 0.5, 0.25, 0.25]
    """

    second_from: ClassVar[int] = 1
    step_size: int | None = None
    gamma: float = 0.1
    milestones: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if (self.step_size is None) == (self.milestones is None):
            raise ArgumentError(
                "step_decay: exactly one of step_size and milestones must be given, got "
                f"step_size={self.step_size!r}, milestones={self.milestones!r}; pass step_size=30, for example"
            )
        if self.step_size is not None:
            self._integer("step_size", 1)
        self._number("gamma")
        if self.milestones is not None:
            self._set("milestones", _increasing(self.milestones))

    @property
    def corners(self) -> tuple[int, ...]:
        """The start and the decays; for a constant `step_size`, only the first three decays."""
        return (0, *(self.milestones or ((self.step_size or 0) * n for n in (1, 2, 3))))

    @property
    def horizon(self) -> int:
        """A third more than the last corner."""
        return self.corners[-1] * 4 // 3

    def value(self, k: int, base: float) -> float:
        """Return the learning rate at step `k`."""
        if self.milestones is not None:
            return base * self.gamma ** bisect_right(self.milestones, k)
        assert self.step_size is not None
        return base * self.gamma ** (k // self.step_size)


def _increasing(milestones: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(milestones, Sequence):
        raise ArgumentTypeError(f"step_decay: milestones must be a list of ints, got {milestones=!r}; pass [30, 60]")
    steps = tuple(check_integer("step_decay", f"milestones[{i}]", step, 1) for i, step in enumerate(milestones))
    if not steps or any(late <= early for early, late in pairwise(steps)):
        raise ArgumentError(f"step_decay: milestones must be increasing steps, got {milestones=!r}; pass [30, 60]")
    return steps


@derive_constructor(step_decay)
class StepDecay(Scheduler):
    """Multiply by `gamma` every `step_size` steps or at milestones; the `LRScheduler` for `step_decay`.

    It equals PyTorch's `StepLR` and `MultiStepLR`, but is computed from `k` instead of the previous learning rate.

    Example:
        >>> import torch
        >>> from fallline.schedules import StepDecay
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
        >>> scheduler = StepDecay(optimizer, milestones=[1], gamma=0.5)
        >>> optimizer.step()
        >>> scheduler.step()
        >>> scheduler.get_last_lr()
        [0.25]
    """
