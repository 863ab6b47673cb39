"""The `LRScheduler` that applies pure schedules to the groups of an optimizer."""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch._compile import _disable_dynamo
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fallline.arguments import KnownKeywords, check_integer, check_number
from fallline.errors import ArgumentError, ArgumentTypeError, StateError
from fallline.group_values import KEYS, ForeignFactors, has, read
from fallline.schedules.base import Schedule
from fallline.step_record import StepRecord
from fallline.wrappers import is_scheduled_by_torch, updaters


class Scheduler(KnownKeywords, LRScheduler):
    """PyTorch `LRScheduler` for pure schedules: it sets the lr of every group to `schedule(k, initial_lr)`.

    `k` is `last_epoch`, the number of calls of `step()` (per batch or per epoch), except those that followed a step
    which a GradScaler is known to have skipped. A tensor lr is filled in place. If other code changes an lr between two
    calls (PyTorch's `ExponentialLR`, `ReduceLROnPlateau`, an assignment), the change is kept as a factor, as with
    PyTorch's chainable schedulers. Two schedulers of this class on one optimizer raise a StateError, unless they are
    parts of a `SequentialLR`.

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
        >>> optimizer = torch.optim.AdamW([weight], lr=0.5, weight_decay=0.1)
        >>> scheduler = Scheduler(optimizer, {"lr": step_decay(1, 0.5), "weight_decay": linear(2)})
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
        self._record, self._foreign = StepRecord(name, stepped=last_epoch >= 0), ForeignFactors()
        self.optimizer = optimizer
        # A PyTorch scheduler that has set an lr at its construction cannot be told from one that is no longer used.
        found_lr = is_scheduled_by_torch(optimizer) and any(
            float(group["lr"]) != float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups
        )
        self._initial_step()
        self._found_lr = found_lr

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer whose groups are scheduled; it can be replaced by another one with the same groups."""
        found: Optimizer = self.__dict__["optimizer"]
        return found

    @optimizer.setter
    def optimizer(self, optimizer: Optimizer) -> None:
        self.__dict__["optimizer"] = optimizer
        self._attach()
        self._forget_changes()

    # Traced, each call would be compiled anew. PyTorch does not trace SequentialLR, which also calls `_update_lr`.
    @_disable_dynamo
    def step(self, epoch: int | None = None) -> None:
        """Advance by one step, unless a GradScaler skipped the optimizer's last step; with `epoch`, go to `k = epoch`.

        Raises:
            ArgumentTypeError, ArgumentError: `epoch` is not an int (for example, it is a metric), or is negative.
            StateError: another scheduler of Fallline schedules the same values of this optimizer.
        """
        skipped = self._record.finds_skipped(self.optimizer)
        self._record.mark_call()
        if epoch is not None:
            self._place(check_integer(type(self).__name__, "epoch", epoch, 0))
        elif self.last_epoch < 0:  # SequentialLR in a SequentialLR starts its first part so
            self._place(0)
        else:
            self._keep_changes()
            k = self.last_epoch + (not skipped)
            self._set(k, self._scaled(k))

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the learning rate of every group at the current `k`."""
        values = self._scaled(self.last_epoch)
        return [*values["lr"]] if "lr" in values else [float(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return `k`, base and current values of every group, factors of other code, and whether a step was skipped.

        It contains only plain numbers, which `torch.load(..., weights_only=True)` can load.
        """
        groups = self.optimizer.param_groups
        return {
            "last_epoch": self.last_epoch,
            "bases": {key: self._bases(key) for key in self.schedules},
            # They can differ from the schedule: in a SequentialLR, another scheduler may be active.
            "values": {key: [float(read(group, key)) for group in groups] for key in self.schedules},
            "factors": {key: [*column] for key, column in self._foreign.factors.items()},
            "skipped": self._record.finds_skipped(self.optimizer),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state dict, and set the learning rates of the optimizer to the saved values.

        It can be called before or after the `load_state_dict` of the optimizer. A state dict without "factors" and
        "skipped", of an earlier version, can be loaded too.

        Raises:
            StateError: keys or groups do not match, or a value is invalid; nothing has changed.
        """
        groups = self.optimizer.param_groups
        k, columns = _validate(type(self).__name__, state_dict, list(self.schedules), len(groups))
        for key, column in columns["bases"].items():
            for group, base in zip(self.optimizer.param_groups, column, strict=True):
                group[f"initial_{key}"] = base
        self._forget_changes()
        self._foreign.factors = columns["factors"]
        self._set(k, columns["values"])
        self._record.skipped = bool(state_dict.get("skipped", False))
        self._record.stepped |= k > 0
        self._record.share_turn(self._updaters, self.schedules)  # the active part of a SequentialLR is not known here

    def _initial_step(self) -> None:  # SequentialLR calls this and `_update_lr`
        self._place(self.last_epoch + 1)

    @_disable_dynamo
    def _update_lr(self, epoch: int | None = None) -> None:
        self._place(self.last_epoch + 1 if epoch is None else epoch)

    def _place(self, k: int) -> None:
        """Go to step `k` and set every value to that of the schedule, whatever other code has set."""
        self._record.take_turn(self._updaters, self.schedules)
        self._forget_changes()
        self._set(k, self._scaled(k))

    def _forget_changes(self) -> None:
        self._found_lr = False
        self._foreign.clear()

    def _keep_changes(self) -> None:
        """Keep the changes of other code as factors; raise StateError if the values have two schedulers for certain."""
        groups = self.optimizer.param_groups
        found = self._foreign.find(groups)
        if later := self._record.find_later(self._updaters, self.schedules):
            self._refuse(*later)
        if self._found_lr and any(key == "lr" for key, _ in found):
            self._refuse("lr", "a change by a scheduler of PyTorch that was constructed first")
        if found:
            self._foreign.keep(groups, self._at(self.last_epoch), found)

    def _refuse(self, key: str, other: str) -> NoReturn:
        raise StateError(
            f"{type(self).__name__}: {key} must have no other scheduler of Fallline, and none that was constructed "
            f"before this one, got {other}; chain the schedules with .then() and pass them to Scheduler, or put both "
            "schedulers in a SequentialLR"
        )

    def _scaled(self, k: int) -> dict[str, list[float]]:
        """Return the values of every group at step `k`, with the factors of other code."""
        return self._foreign.scale(self._at(k))

    def _at(self, k: int) -> dict[str, list[float]]:
        """Return the scheduled values of every group at step `k`."""
        return {
            key: [self._schedule_of(key, number).value(k, base) for number, base in enumerate(self._bases(key))]
            for key in self.schedules
        }

    def _schedule_of(self, key: str, group: int) -> Schedule:
        return self.schedules[key][min(group, len(self.schedules[key]) - 1)]

    def _set(self, k: int, values: Mapping[str, list[float]]) -> None:
        self.last_epoch = k
        self._step_count = k + 1
        groups = self.optimizer.param_groups
        self._foreign.write(groups, values)
        self.base_lrs: list[float | torch.Tensor] = [float(group.get("initial_lr", group["lr"])) for group in groups]
        self._last_lr: list[float | torch.Tensor] = [float(group["lr"]) for group in groups]

    def _bases(self, key: str) -> list[float]:
        """Return the base value of every group; the base of a new group is its current value."""
        groups, initial = self.optimizer.param_groups, f"initial_{key}"
        shared: dict[int, float] = {}
        for group in groups:
            current = read(group, key)
            # A group that was added without its own lr shares an earlier group's tensor, which we have overwritten.
            base = group.get(initial, shared.get(id(current), current))
            group[initial] = float(base)  # a number is not aliased and needs no GPU synchronization
            if isinstance(current, torch.Tensor):
                shared.setdefault(id(current), group[initial])
        return [group[initial] for group in groups]

    def _attach(self) -> None:
        for finalizer in self.__dict__.pop("_hooks", ()):
            finalizer()
        self._updaters = updaters(self.optimizer)
        self._hooks = self._record.attach(self.optimizer, self, self._foreign.on_load)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_hooks", "_updaters")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._attach()  # PyTorch's optimizers drop their hooks when they are copied or pickled


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
    name: str, state: Mapping[str, Any], keys: list[str], groups: int
) -> tuple[int, dict[str, dict[str, list[float]]]]:
    """Return k, and bases, values and factors of a state dict; raise StateError if it does not match the scheduler."""
    required, optional = {"last_epoch", "bases", "values"}, {"factors", "skipped", "stepped"}
    if not required <= set(state) <= required | optional:
        raise StateError(
            f"{name}: state must have last_epoch, bases, values, factors and skipped, got {', '.join(state)}; "
            "load the state_dict() of a Fallline scheduler"
        )
    columns: dict[str, dict[str, list[float]]] = {}
    try:
        k = check_integer(name, "last_epoch", state["last_epoch"], -1)
        for part in ("bases", "values", "factors"):
            found = state.get(part, {})
            if set(found) - set(keys) or (part != "factors" and set(found) != set(keys)):
                raise ArgumentError(
                    f"{name}: {part} must be those of {', '.join(keys)}, got {', '.join(found)}; "
                    "construct the same scheduler before loading"
                )
            columns[part] = {key: [check_number(name, part, value) for value in found[key]] for key in found}
            for key, column in columns[part].items():
                if len(column) != groups and part != "factors":
                    raise ArgumentError(
                        f"{name}: state must fit the optimizer's {groups} groups, got {len(column)} {part} of "
                        f"{key}; create the same groups before loading"
                    )
    except (ArgumentError, ArgumentTypeError) as error:
        raise StateError(str(error)) from None
    return k, columns
