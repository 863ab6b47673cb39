"""The 1cycle policy: one rise and one long fall, with momentum cycled inversely to the learning rate."""

from dataclasses import dataclass

from fallline.schedules.base import Schedule, derive_constructor
from fallline.schedules.cosine import half_cosine
from fallline.schedules.scheduler import Scheduler


class _Cycle(Schedule):
    """Half a cosine up to the turn at k = pct_start·T − 1, and half a cosine back until k = T − 1."""

    total_steps: int
    pct_start: float

    @property
    def turn(self) -> float:
        """The step of the turn, which need not be a whole number."""
        return self.pct_start * self.total_steps - 1

    @property
    def corners(self) -> tuple[int, ...]:
        """The first step, the turn, and the last step."""
        return tuple(sorted({0, max(round(self.turn), 0), self.total_steps - 1}))

    def _between(self, k: int, start: float, top: float, end: float) -> float:
        if k <= self.turn:
            return half_cosine(start, top, k / self.turn if self.turn > 0 else 1.0)
        if k >= self.total_steps - 1:
            return end
        return half_cosine(top, end, (k - self.turn) / (self.total_steps - 1 - self.turn))


@dataclass(frozen=True, repr=False)
class one_cycle(_Cycle):
    """Rise along half a cosine, then fall along half a cosine far below the start: PyTorch's `OneCycleLR`.

    It rises from `max_lr/div_factor` to `max_lr` at k = pct_start·T − 1, then falls to
    `max_lr/div_factor/final_div_factor` at k = T − 1, where it stays (Smith and Topin 2017, arXiv:1708.07120).

    Args:
        total_steps: T, the number of all steps, >= 1.
        max_lr: the peak, > 0; None means the base learning rate, which keeps the ratios between groups.
        pct_start: the fraction of the steps in which the learning rate rises, in [0, 1].
        div_factor: ratio of the peak to the start, > 0.
        final_div_factor: ratio of the start to the end, > 0.

    Raises:
        ArgumentTypeError, ArgumentError: an argument is outside those limits.

    Example:
        >>> from fallline.schedules import one_cycle
        >>> [round(one_cycle(10, div_factor=4, final_div_factor=100)(k), 4) for k in (0, 1, 2, 9, 30)]
        [0.25, 0.625, 1.0, 0.0025, 0.0025]
    """

    total_steps: int
    max_lr: float | None = None
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        self._integer("total_steps", 1)
        self._number("pct_start", maximum=1.0)
        for name in ("div_factor", "final_div_factor", *(["max_lr"] if self.max_lr is not None else [])):
            self._number(name, above_zero=True)

    def value(self, k: int, base: float) -> float:
        """Return the learning rate at step `k`."""
        top = base if self.max_lr is None else self.max_lr
        start = top / self.div_factor
        return self._between(k, start, top, start / self.final_div_factor)


@dataclass(frozen=True, repr=False)
class one_cycle_momentum(_Cycle):
    """The momentum schedule of `one_cycle`: it falls while the learning rate rises, and then rises again.

    Args:
        total_steps: as in `one_cycle`.
        base_momentum: the lowest momentum, at the peak of the learning rate, in [0, 1].
        max_momentum: the highest momentum, at the start and the end, in [0, 1].
        pct_start: as in `one_cycle`.

    Raises:
        ArgumentTypeError, ArgumentError: an argument is outside those limits.

    Example:
        >>> from fallline.schedules import one_cycle_momentum
        >>> [round(one_cycle_momentum(10)(k), 3) for k in (0, 2, 9)]
        [0.95, 0.85, 0.95]
    """

    total_steps: int
    base_momentum: float = 0.85
    max_momentum: float = 0.95
    pct_start: float = 0.3

    def __post_init__(self) -> None:
        self._integer("total_steps", 1)
        for name in ("base_momentum", "max_momentum", "pct_start"):
            self._number(name, maximum=1.0)

    def value(self, k: int, base: float) -> float:
        """Return the momentum at step `k`; it does not depend on `base`."""
        return self._between(k, self.max_momentum, self.base_momentum, self.max_momentum)


@derive_constructor(one_cycle, per_group="max_lr", momentum=one_cycle_momentum)
class OneCycle(Scheduler):
    """Run one cycle of learning rate and momentum for each group; the `LRScheduler` for `one_cycle`.

    It equals PyTorch's `OneCycleLR` with cosine annealing, but stays constant after `total_steps`, where `OneCycleLR`
    raises an error.

    Args:
        optimizer: any `torch.optim.Optimizer`; with `cycle_momentum` it must have momentum or betas.

    Example:
        >>> import torch
        >>> from fallline.schedules import OneCycle
        >>> optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
        >>> OneCycle(optimizer, total_steps=100, max_lr=0.1).get_last_lr(), optimizer.param_groups[0]["betas"]
        ([0.004], (0.95, 0.999))
    """
