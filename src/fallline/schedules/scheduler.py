"""The `LRScheduler` that applies pure schedules to the groups of an optimizer."""

import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fallline.arguments import KnownKeywords, check_integer, check_number
from fallline.errors import ArgumentError, ArgumentTypeError, StateError
from fallline.group_values import KEYS, has, read, write
from fallline.schedules.base import Schedule


class _UpdateRecorder:
    """Step hook of an optimizer that records whether an update was made."""

    def __init__(self) -> None:
        self.stepped = False

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # GradScaler calls torch's fused optimizers even for skipped steps, and passes them `found_inf`.
        found_inf = getattr(optimizer, "found_inf", None)
        self.stepped = self.stepped or found_inf is None or not found_inf.item()


def _updaters(optimizer: Optimizer) -> list[Optimizer]:
    """Return the optimizers that write the parameters: those inside a wrapper such as SAM, or `optimizer` itself."""
    inner = [value for value in vars(optimizer).values() if isinstance(value, Optimizer)]
    return [updater for wrapped in inner for updater in _updaters(wrapped)] or [optimizer]


class Scheduler(KnownKeywords, LRScheduler):
    """PyTorch `LRScheduler` for pure schedules: it sets the lr of every group to `schedule(k, initial_lr)`.

    `k` is `last_epoch`, the number of calls of `step()` (per batch or per epoch) that followed an update of the
    optimizer. So a call after a step that GradScaler skipped does not change `k` and the learning rates, nor does a
    second call after the same update. A tensor lr is filled in place. Learning rates are set, not scaled: the scheduler
    works in a `SequentialLR`, but in a `ChainedScheduler` it overwrites the values of the schedulers before it.

    Args:
        optimizer: any `torch.optim.Optimizer`; the base learning rate of a group is its `initial_lr`, or its current
            `lr` if it has none.
        schedule: a schedule of the learning rate, or a list with one schedule per group (the last also applies to
            groups that are added later), or a dict of these for "lr", "weight_decay" and "momentum" (β1 if the
            optimizer has betas). The base of each is the value of the group when the scheduler is constructed.
        last_epoch: -1 to start; `k - 1` to resume at step `k` with an optimizer whose state has been loaded.

    Raises:
        ArgumentTypeError, ArgumentError: an argument is invalid; the optimizer is unchanged.

    Example:
        >>> import torch
        >>> from fallline.schedules import Scheduler, linear, step_decay
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = torch.optim.SGD([weight], lr=0.5)
        >>> scheduler = Scheduler(optimizer, step_decay(step_size=2, gamma=0.5))
        >>> for _ in range(4):
        ...     optimizer.step()
        ...     scheduler.step()
        >>> scheduler.last_epoch, scheduler.get_last_lr()
        (4, [0.125])
        >>> both = {"lr": step_decay(1, 0.5), "weight_decay": linear(2)}
        >>> optimizer = torch.optim.AdamW([weight], lr=0.5, weight_decay=0.1)
        >>> scheduler = Scheduler(optimizer, both)
        >>> optimizer.step()
        >>> scheduler.step()
        >>> optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]
        (0.25, 0.0)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedule | Sequence[Schedule] | Mapping[str, Schedule | Sequence[Schedule]],
        last_epoch: int = -1,
    ) -> None:
        # PyTorch's constructor is not called, because it would replace `optimizer.step` to detect whether it is called.
        name = type(self).__name__
        if not isinstance(optimizer, Optimizer):
            raise ArgumentTypeError(
                f"{name}: optimizer must be a torch.optim.Optimizer, got {optimizer=!r}; pass an optimizer"
            )
        self.schedules = _by_key(name, schedule, optimizer)
        self.last_epoch = check_integer(name, "last_epoch", last_epoch, -1)
        if last_epoch >= 0 and not all("initial_lr" in group for group in optimizer.param_groups):
            raise ArgumentError(
                f"{name}: every group must hold initial_lr to resume a run, got last_epoch={last_epoch}; "
                "load the state of the optimizer first, or leave last_epoch out and load the state of the scheduler"
            )
        self.optimizer = optimizer
        self._recorder = _UpdateRecorder()
        self._calls = self._ignored = 0
        self._register_hooks()
        self._initial_step()

    def step(self, epoch: int | None = None) -> None:
        """Advance by one step if the optimizer made an update since the last call; with `epoch`, go to `k = epoch`.

        Raises:
            ArgumentTypeError, ArgumentError: `epoch` is not an int (for example, it is a metric), or is negative.
        """
        if epoch is not None:
            self._move(check_integer(type(self).__name__, "epoch", epoch, 0))
            return
        stepped = self._recorder.stepped
        self._calls += 1
        self._ignored += not stepped
        # GradScaler skips a few steps at the start, then one in thousands. If half of the calls have no effect, the
        # cause is the training loop.
        if not stepped and self._ignored == 5 and self._calls <= 10:
            warnings.warn(
                f"{type(self).__name__}.step() did not advance in {self._ignored} of {self._calls} calls, because "
                "optimizer.step() was not called since the previous call. Call it once after each update, use step(k) "
                f"to go to a step, and plot with the pure schedule {next(iter(self.schedules.values()))[0]!r}.",
                UserWarning,
                stacklevel=2,
            )
        self._move(self.last_epoch + stepped)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the learning rate of every group at the current `k`."""
        values = self._at(self.last_epoch)
        return [*values["lr"]] if "lr" in values else [float(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return `k`, base and current values of every group, and whether an update was made since the last `step`.

        It contains only plain numbers, which `torch.load(..., weights_only=True)` can load.
        """
        groups = self.optimizer.param_groups
        return {
            "last_epoch": self.last_epoch,
            "bases": {key: self._bases(key) for key in self.schedules},
            # They can differ from the schedule: in a SequentialLR, another scheduler may be active.
            "values": {key: [float(read(group, key)) for group in groups] for key in self.schedules},
            "stepped": self._recorder.stepped,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state dict, and set the learning rates of the optimizer to the saved values.

        It can be called before or after the `load_state_dict` of the optimizer.

        Raises:
            StateError: keys or groups do not match, or a value is invalid; nothing has changed.
        """
        k, bases, values = _validate(type(self).__name__, state_dict, list(self.schedules), self.optimizer.param_groups)
        for key, column in bases.items():
            for group, base in zip(self.optimizer.param_groups, column, strict=True):
                group[f"initial_{key}"] = base
        self._set(k, values)
        self._recorder.stepped = bool(state_dict["stepped"])

    def _initial_step(self) -> None:  # SequentialLR calls this and `_update_lr`
        self._move(self.last_epoch + 1)

    def _update_lr(self, epoch: int | None = None) -> None:
        self._move(self.last_epoch + 1 if epoch is None else epoch)

    def _move(self, k: int) -> None:
        self._set(k, self._at(k))
        self._recorder.stepped = False

    def _at(self, k: int) -> dict[str, list[float]]:
        """Return the scheduled values of every group at step `k`."""
        return {
            key: [self._schedule_of(key, number)(k, base) for number, base in enumerate(self._bases(key))]
            for key in self.schedules
        }

    def _schedule_of(self, key: str, group: int) -> Schedule:
        return self.schedules[key][min(group, len(self.schedules[key]) - 1)]

    def _set(self, k: int, values: Mapping[str, list[float]]) -> None:
        self.last_epoch = k
        self._step_count = k + 1
        for key, column in values.items():
            write(self.optimizer.param_groups, key, column)
        groups = self.optimizer.param_groups
        self.base_lrs: list[float | torch.Tensor] = [float(group.get("initial_lr", group["lr"])) for group in groups]
        self._last_lr: list[float | torch.Tensor] = [float(group["lr"]) for group in groups]

    def _bases(self, key: str) -> list[float]:
        """Return the base value of every group; the base of a new group is its current value."""
        groups, initial = self.optimizer.param_groups, f"initial_{key}"
        shared = {id(read(group, key)): group[initial] for group in groups if initial in group}
        for group in groups:
            if initial not in group:
                current = read(group, key)
                # A group that was added later without its own lr shares the default tensor, which this scheduler has
                # overwritten.
                group[initial] = shared.get(id(current), current) if isinstance(current, torch.Tensor) else current
            group[initial] = float(group[initial])  # a number is not aliased and needs no GPU synchronization
        return [group[initial] for group in groups]

    def _register_hooks(self) -> None:
        # Skipped steps cannot be detected otherwise: GradScaler does not call `step`, and the scheduler has no access
        # to the scaler. So a hook records each update. It does not refer to the scheduler, and is removed with it.
        for optimizer in _updaters(self.optimizer):
            weakref.finalize(self, optimizer.register_step_post_hook(self._recorder).remove)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._register_hooks()  # PyTorch's optimizers drop their hooks when they are copied or pickled


def _by_key(name: str, schedule: Any, optimizer: Optimizer) -> dict[str, list[Schedule]]:
    """Return a list of schedules for each scheduled value; raise an error if a value cannot be scheduled."""
    given = schedule if isinstance(schedule, Mapping) else {"lr": schedule}
    found = {}
    groups = optimizer.param_groups
    for key, value in given.items():
        if key not in KEYS or not all(has(group, key) for group in groups):
            raise ArgumentError(
                f"{name}: schedule must be for values among {', '.join(k for k in KEYS if has(groups[0], k))}, "
                f"got {key!r}; every group of {type(optimizer).__name__} must have it"
            )
        several = list(value) if isinstance(value, (list, tuple)) else [value]
        if not several or not all(isinstance(one, Schedule) for one in several):
            raise ArgumentTypeError(
                f"{name}: schedule must be a Schedule, got schedule={value!r}; pass one of fallline.schedules"
            )
        if len(several) not in (1, len(groups)):
            raise ArgumentError(
                f"{name}: a list must have a schedule or min_lr for each of the {len(groups)} groups, "
                f"got {len(several)}; pass one value for all groups, or one per group"
            )
        found[key] = several
    if not found:
        raise ArgumentError(f"{name}: schedule must not be empty, got schedule={given!r}; pass cosine(1000)")
    return found


def _validate(
    name: str, state: Mapping[str, Any], keys: list[str], groups: list[dict[str, Any]]
) -> tuple[int, dict[str, list[float]], dict[str, list[float]]]:
    """Return k, bases and values of a state dict; raise StateError if it does not match the scheduler."""
    if set(state) != {"last_epoch", "bases", "values", "stepped"}:
        raise StateError(
            f"{name}: state must have last_epoch, bases, values and stepped, got {', '.join(state)}; "
            "load the state_dict() of a Fallline scheduler"
        )
    columns = []
    try:
        k = check_integer(name, "last_epoch", state["last_epoch"], -1)
        for part in ("bases", "values"):
            if set(state[part]) != set(keys):
                raise ArgumentError(
                    f"{name}: {part} must be those of {', '.join(keys)}, got {', '.join(state[part])}; "
                    "construct the same scheduler before loading"
                )
            columns.append({key: [check_number(name, part, value) for value in state[part][key]] for key in keys})
            for key, column in columns[-1].items():
                if len(column) != len(groups):
                    raise ArgumentError(
                        f"{name}: state must fit the optimizer's {len(groups)} groups, got {len(column)} {part} of "
                        f"{key}; create the same groups before loading"
                    )
    except (ArgumentError, ArgumentTypeError) as error:
        raise StateError(str(error)) from None
    return k, columns[0], columns[1]
