"""The `LRScheduler` that runs a schedule over the groups of an optimizer."""

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


class Scheduler(KnownKeywords, LRScheduler):
    """PyTorch's `LRScheduler` over pure schedules: it keeps every group's lr at `schedule(k, initial_lr)`.

    `k` is `last_epoch`: the number of calls of `step()`, per batch or per epoch, before which the optimizer made an
    update. A call after a step that GradScaler skipped therefore leaves `k` and the learning rates as they were, and
    so does a second call after the same update. A tensor lr is filled in place. Learning rates are set, not scaled:
    in a `SequentialLR` this works as any scheduler, in a `ChainedScheduler` it undoes those before it.

    Args:
        optimizer: any `torch.optim.Optimizer`; each group's `initial_lr`, or else its `lr` now, is its base.
        schedule: what the learning rate is at each `k`, or a list with a schedule for each group (the last is also
            that of groups added later), or a dict of such for "lr", "weight_decay" and "momentum" (β1 where the
            optimizer has betas). The base of each is the group's value when the scheduler is built.
        last_epoch: -1 to start; `k - 1` to resume at step `k` with an optimizer whose state has been loaded.

    Raises:
        ArgumentTypeError, ArgumentError: an argument cannot be used; the optimizer is left as it was.

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
        # PyTorch's constructor is not called: it would replace `optimizer.step` to see whether it was ever called.
        name = type(self).__name__
        if not isinstance(optimizer, Optimizer):
            raise ArgumentTypeError(f"{name}: optimizer must be a torch.optim.Optimizer, got {optimizer=!r}; pass one")
        self.schedules = _by_key(name, schedule, optimizer)
        self.last_epoch = check_integer(name, "last_epoch", last_epoch, -1)
        if last_epoch >= 0 and not all("initial_lr" in group for group in optimizer.param_groups):
            raise ArgumentError(
                f"{name}: every group must hold initial_lr to start in mid-run, got last_epoch={last_epoch}; "
                "load the optimizer's state first, or leave last_epoch out and load the scheduler's"
            )
        self.optimizer = optimizer
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
                f"to a step, and plot with the pure schedule {next(iter(self.schedules.values()))[0]!r}",
                UserWarning,
                stacklevel=2,
            )
        self._move(self.last_epoch + stepped)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the learning rate of every group at the present `k`."""
        at = self._at(self.last_epoch)
        return [*at["lr"]] if "lr" in at else [float(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return `k`, base and present values of every group, and whether an update was made since the last `step`.

        Plain numbers: `torch.load(..., weights_only=True)` takes them.
        """
        groups = self.optimizer.param_groups
        return {
            "last_epoch": self.last_epoch,
            "bases": {key: self._bases(key) for key in self.schedules},
            # Not always the schedule's: in a SequentialLR it may be the turn of another scheduler.
            "values": {key: [float(read(group, key)) for group in groups] for key in self.schedules},
            "stepped": self._witness.stepped,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state dict, with the optimizer's learning rates as they were; no matter which is loaded first.

        Raises:
            StateError: a key or a group is missing or too many, or a value cannot be; nothing has changed.
        """
        k, bases, values = _checked(type(self).__name__, state_dict, list(self.schedules), self.optimizer.param_groups)
        for key, column in bases.items():
            for group, base in zip(self.optimizer.param_groups, column, strict=True):
                group[f"initial_{key}"] = base
        self._set(k, values)
        self._witness.stepped = bool(state_dict["stepped"])

    def _initial_step(self) -> None:  # SequentialLR calls this and `_update_lr`
        self._move(self.last_epoch + 1)

    def _update_lr(self, epoch: int | None = None) -> None:
        self._move(self.last_epoch + 1 if epoch is None else epoch)

    def _move(self, k: int) -> None:
        self._set(k, self._at(k))
        self._witness.stepped = False

    def _at(self, k: int) -> dict[str, list[float]]:
        """Return what every group has at step `k`."""
        return {
            key: [self._of(key, number)(k, base) for number, base in enumerate(self._bases(key))]
            for key in self.schedules
        }

    def _of(self, key: str, group: int) -> Schedule:
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
        """Return every group's base value; a group that is new gets its value of now as such."""
        groups, initial = self.optimizer.param_groups, f"initial_{key}"
        shared = {id(read(group, key)): group[initial] for group in groups if initial in group}
        for group in groups:
            if initial not in group:
                now = read(group, key)
                # A late group without an lr of its own shares the default tensor, which this scheduler has filled.
                group[initial] = shared.get(id(now), now) if isinstance(now, torch.Tensor) else now
            group[initial] = float(group[initial])  # a number aliases nothing and needs no GPU round trip
        return [group[initial] for group in groups]

    def _watch(self) -> None:
        # A skipped step leaves no other trace: GradScaler does not call `step`, and the scheduler never sees the
        # scaler. So a hook records each update; it holds no scheduler, and dies with this one.
        for optimizer in _updaters(self.optimizer):
            weakref.finalize(self, optimizer.register_step_post_hook(self._witness).remove)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._watch()  # PyTorch's optimizers drop their hooks when copied or pickled


def _by_key(name: str, schedule: Any, optimizer: Optimizer) -> dict[str, list[Schedule]]:
    """Return a list of schedules for each of the values that are scheduled; raise if one cannot be."""
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
                f"got {len(several)}; pass one for all, or one for each"
            )
        found[key] = several
    if not found:
        raise ArgumentError(f"{name}: schedule must schedule something, got schedule={given!r}; pass cosine(1000)")
    return found


def _checked(
    name: str, state: Mapping[str, Any], keys: list[str], groups: list[dict[str, Any]]
) -> tuple[int, dict[str, list[float]], dict[str, list[float]]]:
    """Return k, bases and values of a state dict; raise StateError unless it fits."""
    if set(state) != {"last_epoch", "bases", "values", "stepped"}:
        raise StateError(
            f"{name}: state must have last_epoch, bases, values and stepped, got {', '.join(state)}; "
            "load what state_dict() of a Fallline scheduler returned"
        )
    columns = []
    try:
        k = check_integer(name, "last_epoch", state["last_epoch"], -1)
        for part in ("bases", "values"):
            if set(state[part]) != set(keys):
                raise ArgumentError(
                    f"{name}: {part} must be those of {', '.join(keys)}, got {', '.join(state[part])}; "
                    "build the same scheduler before loading"
                )
            columns.append({key: [check_number(name, part, value) for value in state[part][key]] for key in keys})
            for key, column in columns[-1].items():
                if len(column) != len(groups):
                    raise ArgumentError(
                        f"{name}: state must fit the optimizer's {len(groups)} groups, got {len(column)} {part} of "
                        f"{key}; build the same groups before loading"
                    )
    except (ArgumentError, ArgumentTypeError) as error:
        raise StateError(str(error)) from None
    return k, columns[0], columns[1]
