"""What a schedule is: a pure function of the step, and the `LRScheduler` that runs one over an optimizer."""

import inspect
import math
import operator
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fallline.errors import ArgumentError, ArgumentTypeError, StateError


def check_integer(where: str, name: str, value: Any, minimum: int) -> int:
    """Return `value` as an int; raise unless it is a whole number (no bool, no float) of at least `minimum`."""
    message = f"{where}: {name} must be an int >= {minimum}, got {name}={value!r}; pass a whole number of steps"
    try:
        number = operator.index(value)
    except TypeError:
        raise ArgumentTypeError(message) from None
    if isinstance(value, bool):
        raise ArgumentTypeError(message)
    if number < minimum:
        raise ArgumentError(message)
    return number


def check_number(where: str, name: str, value: Any, maximum: float = math.inf) -> float:
    """Return `value` as a float; raise unless it is finite and in [0, maximum]."""
    limit = "a finite number >= 0" if maximum == math.inf else f"a number in [0, {maximum:g}]"
    message = f"{where}: {name} must be {limit}, got {name}={value!r}; choose such a number"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ArgumentTypeError(message)
    number = float(value)
    if not (math.isfinite(number) and 0 <= number <= maximum):
        raise ArgumentError(message)
    return number


class _KnownKeywords:
    """Mixin that refuses unknown keywords with a list of the known ones."""

    def __new__(cls, *args: Any, **keywords: Any) -> "_KnownKeywords":
        known = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
        for name in keywords:
            if name not in known:
                raise ArgumentTypeError(
                    f"{cls.__name__}: keywords must be among {', '.join(known) or '(none)'}, "
                    f"got {name}={keywords[name]!r}; check the spelling"
                )
        return super().__new__(cls)


@dataclass(frozen=True)
class Schedule(_KnownKeywords, ABC):
    """A learning rate as a pure function of the step `k`: immutable, so that it cannot drift.

    A subclass is a frozen dataclass that checks its fields in `__post_init__` and defines `value`.
    """

    def __call__(self, k: int, base: float = 1.0) -> float:
        """Return the learning rate at step `k` (0 is the first) of a group whose base learning rate is `base`.

        Raises:
            ArgumentTypeError, ArgumentError: `k` is not an int, or is negative.
        """
        return self.value(check_integer(type(self).__name__, "k", k, 0), float(base))

    @abstractmethod
    def value(self, k: int, base: float) -> float:
        """Return the same; `k` has been checked."""

    def _integer(self, name: str, minimum: int) -> None:
        self._set(name, check_integer(type(self).__name__, name, getattr(self, name), minimum))

    def _number(self, name: str, maximum: float = math.inf) -> None:
        self._set(name, check_number(type(self).__name__, name, getattr(self, name), maximum))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen; only `__post_init__` may do this


class _Witness:
    """Step hook of an optimizer that remembers whether an update was made."""

    def __init__(self) -> None:
        self.stepped = False

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # GradScaler calls torch's fused optimizers even for a step to be skipped, and hands them its verdict.
        found_inf = getattr(optimizer, "found_inf", None)
        self.stepped = self.stepped or found_inf is None or not found_inf.item()


def _updaters(optimizer: Optimizer) -> list[Optimizer]:
    """Return the optimizers that write the parameters: those inside a wrapper such as SAM, else the one given."""
    inner = [value for value in vars(optimizer).values() if isinstance(value, Optimizer)]
    return [updater for wrapped in inner for updater in _updaters(wrapped)] or [optimizer]


class Scheduler(_KnownKeywords, LRScheduler):
    """PyTorch's `LRScheduler` over a pure schedule: it keeps every group's lr at `schedule(k, initial_lr)`.

    `k` is `last_epoch`: the number of calls of `step()`, per batch or per epoch, before which the optimizer made an
    update. A call after a step that GradScaler skipped therefore leaves `k` and the learning rates as they were, and
    so does a second call after the same update. A tensor lr is filled in place. Learning rates are set, not scaled:
    in a `SequentialLR` this works as any scheduler, in a `ChainedScheduler` it undoes those before it.

    Args:
        optimizer: any `torch.optim.Optimizer`; each group's `initial_lr`, or else its `lr` now, is its base.
        schedule: what the learning rate is at each `k`.
        last_epoch: -1 to start; `k - 1` to go on at `k` with an optimizer whose state has been loaded.

    Raises:
        ArgumentTypeError, ArgumentError: an argument cannot be used; the optimizer is left as it was.

    Example:
        >>> import torch
        >>> from fallline.schedules import Scheduler, step_decay
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = torch.optim.SGD([weight], lr=0.5)
        >>> scheduler = Scheduler(optimizer, step_decay(step_size=2, gamma=0.5))
        >>> for _ in range(4):
        ...     optimizer.step()
        ...     scheduler.step()
        >>> scheduler.last_epoch, scheduler.get_last_lr()
        (4, [0.125])
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, last_epoch: int = -1) -> None:
        # PyTorch's constructor is not called: it would replace `optimizer.step` to see whether it was ever called.
        name = type(self).__name__
        if not isinstance(optimizer, Optimizer):
            raise ArgumentTypeError(f"{name}: optimizer must be a torch.optim.Optimizer, got {optimizer=!r}; pass one")
        if not isinstance(schedule, Schedule):
            raise ArgumentTypeError(
                f"{name}: schedule must be a Schedule, got {schedule=!r}; pass one of fallline.schedules"
            )
        self.last_epoch = check_integer(name, "last_epoch", last_epoch, -1)
        if last_epoch >= 0 and not all("initial_lr" in group for group in optimizer.param_groups):
            raise ArgumentError(
                f"{name}: every group must hold initial_lr to start in mid-run, got last_epoch={last_epoch}; "
                "load the optimizer's state first, or leave last_epoch out and load the scheduler's"
            )
        self.optimizer = optimizer
        self.schedule = schedule
        self._witness = _Witness()
        self._calls = self._ignored = 0
        self._watch()
        self._initial_step()

    def step(self, epoch: int | None = None) -> None:
        """Advance by one, if the optimizer made an update since the last call; given `epoch`, go to `k = epoch`.

        Raises:
            ArgumentTypeError, ArgumentError: `epoch` is not an int (a metric, say), or is negative.
        """
        if epoch is not None:
            self._move(check_integer(type(self).__name__, "epoch", epoch, 0))
            return
        stepped = self._witness.stepped
        self._calls += 1
        self._ignored += not stepped
        # GradScaler skips a few steps at the start, then one in thousands: half of the calls means another loop.
        if not stepped and self._ignored == 5 and self._calls <= 10:
            warnings.warn(
                f"{type(self).__name__}.step() did not advance in {self._ignored} of {self._calls} calls: no "
                "optimizer.step() ran between it and the call before; call it once after an update, use step(k) to go "
                f"to a step, and plot with the pure schedule {self.schedule!r}",
                UserWarning,
                stacklevel=2,
            )
        self._move(self.last_epoch + stepped)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the learning rate of every group at the present `k`."""
        return [self.schedule(self.last_epoch, base) for base in self._bases()]

    def state_dict(self) -> dict[str, Any]:
        """Return `k`, every group's base and present lr, and whether an update was made since the last call to `step`.

        Plain numbers: `torch.load(..., weights_only=True)` takes them.
        """
        return {
            "last_epoch": self.last_epoch,
            "base_lrs": self._bases(),
            # Not always the schedule's: in a SequentialLR it may be the turn of another scheduler.
            "lrs": [float(group["lr"]) for group in self.optimizer.param_groups],
            "stepped": self._witness.stepped,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state dict, with the optimizer's learning rates as they were; no matter which is loaded first.

        Raises:
            StateError: a key or a group is missing or too many, or a value cannot be; nothing has changed.
        """
        name, groups = type(self).__name__, self.optimizer.param_groups
        if set(state_dict) != {"last_epoch", "base_lrs", "lrs", "stepped"}:
            raise StateError(
                f"{name}: state must have last_epoch, base_lrs, lrs and stepped, got {', '.join(state_dict)}; "
                "load what state_dict() of a Fallline scheduler returned"
            )
        try:
            k = check_integer(name, "last_epoch", state_dict["last_epoch"], -1)
            bases = [check_number(name, "base_lrs", base) for base in state_dict["base_lrs"]]
            lrs = [check_number(name, "lrs", lr) for lr in state_dict["lrs"]]
        except (ArgumentError, ArgumentTypeError) as error:
            raise StateError(str(error)) from None
        if not len(bases) == len(lrs) == len(groups):
            raise StateError(
                f"{name}: state must fit the optimizer's {len(groups)} groups, got {len(bases)} base_lrs and "
                f"{len(lrs)} lrs; build the same groups before loading"
            )
        for group, base in zip(groups, bases, strict=True):
            group["initial_lr"] = base
        self._set(k, lrs)
        self._witness.stepped = bool(state_dict["stepped"])

    def _initial_step(self) -> None:  # SequentialLR calls this and `_update_lr`
        self._move(self.last_epoch + 1)

    def _update_lr(self, epoch: int | None = None) -> None:
        self._move(self.last_epoch + 1 if epoch is None else epoch)

    def _move(self, k: int) -> None:
        self._set(k, [self.schedule(k, base) for base in self._bases()])
        self._witness.stepped = False

    def _set(self, k: int, lrs: list[float]) -> None:
        self.last_epoch = k
        self._step_count = k + 1
        self.base_lrs: list[float | torch.Tensor] = [*self._bases()]
        self._last_lr: list[float | torch.Tensor] = [*lrs]
        for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def _bases(self) -> list[float]:
        """Return every group's `initial_lr`; a group that is new gets its learning rate of now as such."""
        groups = self.optimizer.param_groups
        shared = {id(group["lr"]): group["initial_lr"] for group in groups if "initial_lr" in group}
        for group in groups:
            if "initial_lr" not in group:
                # A late group without an lr of its own shares the default tensor, which this scheduler has filled.
                tensor = isinstance(group["lr"], torch.Tensor)
                group["initial_lr"] = shared.get(id(group["lr"]), group["lr"]) if tensor else group["lr"]
            group["initial_lr"] = float(group["initial_lr"])  # a number aliases nothing and needs no GPU round trip
        return [group["initial_lr"] for group in groups]

    def _watch(self) -> None:
        # A skipped step leaves no other trace: GradScaler does not call `step`, and the scheduler never sees the
        # scaler. So a hook records each update; it holds no scheduler, and dies with this one.
        for optimizer in _updaters(self.optimizer):
            weakref.finalize(self, optimizer.register_step_post_hook(self._witness).remove)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._watch()  # PyTorch's optimizers drop their hooks when copied or pickled
