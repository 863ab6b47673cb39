"""Input of the checks: model, optimizer, and the schedule simulated over the whole training."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from fallline.linting.copied_schedule import run_copy
from fallline.schedules import Scheduler
from fallline.wrappers import single_schedulers, updaters

Group = dict[str, Any]
_ENDS, _BETWEEN = 3000, 5000  # numbers of calls of a long schedule that are sampled at each end and in between
# Class names, so that those of any library match.
ADAM = ("Adam", "AdamW", "NAdam", "NAdamW", "RAdam", "Adamax", "LAMB", "AdEMAMix")


@dataclass(frozen=True)
class Setup:
    """The arguments of `lint`, and properties derived from them.

    Attributes:
        calls_per_step: number of calls of the scheduler per optimizer step (or per epoch), above 1 under accelerate.
    """

    model: nn.Module | None
    optimizer: Optimizer
    scheduler: Any
    total_steps: int | None
    steps_per_epoch: int | None
    per_epoch: bool
    from_scratch: bool
    previous: Mapping[str, Any] | None
    calls_per_step: int = 1

    @property
    def calls(self) -> int | None:
        """The number of calls of the scheduler in the whole training; None if it is not known."""
        if self.total_steps is None:
            return None
        per_epoch = self.steps_per_epoch or self.total_steps
        return self.calls_per_step * (-(-self.total_steps // per_epoch) if self.per_epoch else self.total_steps)

    @property
    def unit(self) -> str:
        """The unit in which the scheduler counts: epochs, steps, or calls if there are several per step."""
        return "calls" if self.calls_per_step > 1 else "epochs" if self.per_epoch else "steps"

    @functools.cached_property
    def done(self) -> int:
        """The number of calls of the scheduler so far."""
        own = getattr(self.scheduler, "last_epoch", None)  # ChainedScheduler has none
        parts = [getattr(one, "last_epoch", 0) for one in single_schedulers(self.scheduler)]
        return max(own if isinstance(own, int) else max(parts), 0)

    @functools.cached_property
    def updater(self) -> Optimizer:
        """The optimizer that updates the parameters: the one inside wrappers such as SAM, or the optimizer itself."""
        return updaters(self.optimizer)[0]

    @property
    def kind(self) -> str:
        """The name of the optimizer's class."""
        return type(self.updater).__name__

    @property
    def is_adam(self) -> bool:
        """Whether the optimizer divides by a bias-corrected running mean of squared gradients."""
        return self.kind in ADAM

    @property
    def groups(self) -> list[Group]:
        """The groups of the optimizer."""
        return self.updater.param_groups

    @property
    def muon_groups(self) -> list[Group]:
        """The groups that Muon updates: in other packages, all groups of a Muon, or those with `use_muon`."""
        if "Muon" not in self.kind:
            return []
        usual = [group for group in self.groups if group["params"] and group.get("use_muon", True)]
        return [group for group in usual if group.get("algorithm", "muon") == "muon"]

    def named_groups(self) -> Iterator[tuple[str, Group]]:
        """Yield each group with its name for messages."""
        for number, group in enumerate(self.groups):
            name = group.get("name")
            called = f"group {number}" + (f" ({name})" if name else "")
            yield (called if len(self.groups) > 1 else "the optimizer"), group

    def mode(self, group: Group) -> str:
        """Return the mode of weight decay: "l2", "decoupled" or another of Fallline's modes."""
        if "weight_decay_mode" in group:
            return str(group["weight_decay_mode"])
        usual = self.kind in ("AdamW", "Lion", "NAdamW", "Adafactor", "AdEMAMix")
        decoupled = group.get("decoupled_weight_decay", group.get("weight_decouple", usual))  # pytorch_optimizer's name
        return "decoupled" if decoupled else "l2"

    @functools.cached_property
    def _sampled(self) -> tuple[list[int], list[list[float]] | None]:
        return self.rates(sample_calls(self.calls or 0)) if self.calls is not None else ([0], None)

    @property
    def steps(self) -> list[int]:
        """The calls of the scheduler that are sampled, from the start of the training to its end.

        They start at `done` if the rates before a checkpoint cannot be computed.
        """
        return self._sampled[0]

    @property
    def lrs(self) -> list[list[float]] | None:
        """The learning rates of all groups at each of `steps`; None if they are not known."""
        return self._sampled[1]

    @functools.cached_property
    def curve(self) -> list[float] | None:
        """The learning rate at each of `steps`, of the group with the highest one; None if it is not known."""
        if not self.lrs:
            return None
        peaks = [max(column) for column in zip(*self.lrs, strict=True)]
        return [row[peaks.index(max(peaks))] for row in self.lrs]

    def rates(self, steps: Sequence[int]) -> tuple[list[int], list[list[float]] | None]:
        """Return given calls, in increasing order, and the learning rates of all groups then; None if unknown.

        Calls before a checkpoint are left out if the scheduler cannot be run from the start.
        """
        scheduler = self.scheduler
        if scheduler is None:
            return [*steps], [[float(group["lr"]) for group in self.groups]] * len(steps)
        single = single_schedulers(scheduler)
        if not isinstance(scheduler, LRScheduler) or any(map(follows_a_metric, single)):
            return [*steps], None
        if isinstance(scheduler, Scheduler) and "lr" in scheduler.schedules:  # computed without stepping
            return [*steps], [scheduler._scaled(n)["lr"] for n in steps]
        if type(scheduler) is LambdaLR:
            rows = list(zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True))
            return [*steps], [[float(base * factor(n)) for base, factor in rows] for n in steps]
        if self.done and (found := run_copy(scheduler, self.optimizer, steps, 0, self.done)):
            return [*steps], found
        left = [n for n in steps if n >= self.done] or [self.done]
        return left, run_copy(scheduler, self.optimizer, left, self.done)


def follows_a_metric(scheduler: Any) -> bool:
    """Return whether the learning rates of a scheduler depend on the training."""
    return isinstance(scheduler, ReduceLROnPlateau)


def sample_calls(calls: int) -> list[int]:
    """Return at most a few thousand integers below `calls`: all at both ends, and some in between."""
    ends = {*range(min(calls, _ENDS)), *range(max(calls - _ENDS, 0), calls)}
    return sorted(ends | set(range(0, calls, max(calls // _BETWEEN, 1))))


_LENGTHS = {
    "CosineAnnealingLR": "T_max",
    "OneCycleLR": "total_steps",
    "LinearLR": "total_iters",
    "PolynomialLR": "total_iters",
}
_CYCLES = ("CyclicLR", "OneCycleLR", "CosineAnnealingWarmRestarts", "cosine_restarts", "one_cycle")


def length(scheduler: Any) -> int | None:
    """Return the number of calls after which the learning rate of a scheduler is constant, or None if unknown."""
    if isinstance(scheduler, Scheduler):
        ends = [schedule.length for schedule in scheduler.schedules.get("lr", [])]
        return max((end for end in ends if end is not None), default=None)
    if type(scheduler).__name__ == "ChainedScheduler":
        parts = [length(part) for part in scheduler._schedulers]
        return None if None in parts else max(part for part in parts if part is not None)
    if type(scheduler).__name__ == "SequentialLR":
        last = length(scheduler._schedulers[-1])
        return None if last is None else scheduler._milestones[-1] + last
    return getattr(scheduler, _LENGTHS.get(type(scheduler).__name__, ""), None)


def is_cyclic(scheduler: Any) -> bool:
    """Return whether a scheduler is designed to rise again after its start, or to rise for a long time."""
    parts = getattr(scheduler, "_schedulers", [])
    if isinstance(scheduler, Scheduler):
        parts = scheduler.schedules.get("lr", [])
    return type(scheduler).__name__ in _CYCLES or any(map(is_cyclic, parts))
