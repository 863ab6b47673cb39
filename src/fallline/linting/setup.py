"""Input of the checks: model, optimizer, and the schedule simulated over the whole training."""

import copy
import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from fallline.schedules import Scheduler

Group = dict[str, Any]
_ENDS, _BETWEEN = 3000, 5000  # numbers of calls of a long schedule that are sampled at each end and in between
ADAM = ("Adam", "AdamW", "NAdam", "NAdamW", "RAdam", "Adamax", "LAMB")  # class names, so that any library's match


@dataclass(frozen=True)
class Setup:
    """The arguments of `lint`, and properties derived from them.

    Attributes:
        calls: number of future calls of the scheduler, `total_steps` or the number of epochs; None if unknown.
    """

    model: nn.Module | None
    optimizer: Optimizer
    scheduler: Any
    total_steps: int | None
    steps_per_epoch: int | None
    per_epoch: bool
    from_scratch: bool
    previous: Mapping[str, Any] | None

    @property
    def calls(self) -> int | None:
        """The number of future calls of the scheduler."""
        if self.total_steps is None or not self.per_epoch:
            return self.total_steps
        return -(-self.total_steps // (self.steps_per_epoch or self.total_steps))

    @property
    def unit(self) -> str:
        """The unit in which the scheduler counts: epochs or steps."""
        return "epochs" if self.per_epoch else "steps"

    @functools.cached_property
    def updater(self) -> Optimizer:
        """The optimizer that updates the parameters: the one inside a wrapper such as SAM, or the optimizer itself."""
        inner = getattr(self.optimizer, "base", None)
        return inner if isinstance(inner, Optimizer) else self.optimizer

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
        decoupled = group.get("decoupled_weight_decay", self.kind in ("AdamW", "Lion", "NAdamW", "Adafactor"))
        return "decoupled" if decoupled else "l2"

    @functools.cached_property
    def steps(self) -> list[int]:
        """The calls of the scheduler that are sampled, from now (0) to the end; all, if they are not too many."""
        return looked_at(self.calls or 0)

    @functools.cached_property
    def lrs(self) -> list[list[float]] | None:
        """The learning rates of all groups at each of `steps`; None if they are not known."""
        return None if self.calls is None else self.ahead(self.steps)

    @functools.cached_property
    def curve(self) -> list[float] | None:
        """The learning rate at each of `steps`, of the group with the highest one; None if it is not known."""
        if not self.lrs:
            return None
        peaks = [max(column) for column in zip(*self.lrs, strict=True)]
        return [row[peaks.index(max(peaks))] for row in self.lrs]

    def ahead(self, steps: Sequence[int]) -> list[list[float]] | None:
        """Return the learning rates of all groups at the given future calls of the scheduler, in increasing order."""
        if self.scheduler is None:
            return [[float(group["lr"]) for group in self.optimizer.param_groups]] * len(steps)
        if isinstance(self.scheduler, ReduceLROnPlateau) or not isinstance(self.scheduler, LRScheduler):
            return None
        k = max(self.scheduler.last_epoch, 0)
        if isinstance(self.scheduler, Scheduler) and "lr" in self.scheduler.schedules:  # computed without stepping
            return [self.scheduler._scaled(k + n)["lr"] for n in steps]
        if type(self.scheduler) is LambdaLR:
            rows = list(zip(self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True))
            return [[float(base * factor(k + n)) for base, factor in rows] for n in steps]
        return _run_copy(self.scheduler, self.optimizer, steps)


def looked_at(calls: int) -> list[int]:
    """Return at most a few thousand integers below `calls`: all at both ends, and some in between."""
    ends = {*range(min(calls, _ENDS)), *range(max(calls - _ENDS, 0), calls)}
    return sorted(ends | set(range(0, calls, max(calls // _BETWEEN, 1))))


def _run_copy(scheduler: LRScheduler, optimizer: Optimizer, steps: Sequence[int]) -> list[list[float]] | None:
    """Return the learning rates that a copy of a scheduler sets; None if the scheduler cannot be copied."""
    stub = _Stub(optimizer)
    inner = {id(value): stub for value in vars(optimizer).values() if isinstance(value, Optimizer)}
    found: list[list[float]] = []
    wanted = set(steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a copied scheduler warns that its optimizer has not stepped
        try:
            scheduler = copy.deepcopy(scheduler, {id(optimizer): stub, **inner})
        except (TypeError, RuntimeError):
            return None
        for k in range(max(steps, default=-1) + 1):
            if k in wanted:
                found.append([float(group["lr"]) for group in stub.param_groups])
            stub.step()
            try:
                scheduler.step()
            except ValueError:  # raised by torch's OneCycleLR after its end
                break
    return found + found[-1:] * (len(steps) - len(found))


class _Stub(Optimizer):
    """An optimizer with the same groups and options, and dummy parameters."""

    def __init__(self, optimizer: Optimizer) -> None:
        groups = optimizer.param_groups
        super().__init__([{"params": [nn.Parameter(torch.zeros(()))]} for _ in groups], {})
        for own, group in zip(self.param_groups, groups, strict=True):
            own.update({key: _plain(value) for key, value in group.items() if key not in ("params", "param_names")})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do nothing."""


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else copy.deepcopy(value)


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
