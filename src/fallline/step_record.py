"""What a scheduler learns from the hooks of an optimizer: which steps a GradScaler skipped, and other schedulers."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch.optim import Optimizer

from fallline.wrappers import updaters, wrapped_optimizers


class StepRecord:
    """Hooks of an optimizer that record its steps for one scheduler. They do not refer to the scheduler.

    Attributes:
        name: class of the scheduler, for error messages.
        stepped: whether the optimizer has made any step, also before a checkpoint.
        turns: for each scheduled value, when the scheduler last set it without regard to others: the highest number
            among the schedulers of an optimizer is that of the last one.
    """

    def __init__(self, name: str, stepped: bool) -> None:
        self.name = name
        self.stepped = stepped
        self.turns: dict[str, int] = {}
        self._updated = self._skipped = False
        self._called = False

    @property
    def skipped(self) -> bool:
        """Whether a GradScaler skipped all steps since the last call of the scheduler, of which there was at least one.

        It stays True until the next step, because some loops call the scheduler several times per step.
        """
        return self._skipped and not self._updated

    @skipped.setter
    def skipped(self, value: bool) -> None:
        self._skipped, self._updated = value, False

    def finds_skipped(self, optimizer: Optimizer) -> bool:
        """Return `skipped`, also for steps that the hooks cannot see because accelerate's optimizer did not make them.

        Its flag is that of the last step. If the hooks have seen an update since the last call of the scheduler, that
        update counts.
        """
        flag = bool(getattr(optimizer, "step_was_skipped", False))
        return self.skipped or (flag and (self._called or not self._updated))

    def mark_call(self) -> None:
        """Record a call of the scheduler: the next step of the optimizer starts a new record."""
        self._called = True

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Record a step of an optimizer that writes parameters."""
        self._start_if_called()
        found_inf = getattr(optimizer, "found_inf", None)  # a GradScaler sets it before the step
        if found_inf is None or not float(found_inf):
            self._updated = True
        else:
            self._skipped = True

    def on_wrapper(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Record a step of a wrapper. Under a GradScaler, SAM does not call the optimizer inside for a skipped step."""
        self._start_if_called()
        if getattr(optimizer, "found_inf", None) is not None and not self._updated:
            self._skipped = True

    def _start_if_called(self) -> None:
        self.stepped = True
        if self._called:
            self._called = self._updated = self._skipped = False

    def attach(
        self, optimizer: Optimizer, owner: object, on_load: Callable[[Optimizer], None]
    ) -> list[Callable[[], Any]]:
        """Register the hooks and `on_load`; calling the returned finalizers, or the end of `owner`, removes them."""
        handles = []
        inner = updaters(optimizer)
        for one in wrapped_optimizers(optimizer):
            if not hasattr(one, "_optimizer_step_post_hooks"):
                continue  # a wrapper without PyTorch's constructor, such as accelerate's, runs no hooks of its own
            if one in inner:
                handles += [one.register_step_post_hook(self), one.register_load_state_dict_post_hook(on_load)]
            else:
                handles.append(one.register_step_post_hook(self.on_wrapper))
        return [weakref.finalize(owner, handle.remove) for handle in handles]

    def take_turn(self, optimizers: Sequence[Optimizer], keys: Iterable[str]) -> None:
        """Record that the scheduler has set these values without regard to others, after all others."""
        self.turns = {key: 1 + turn for key, turn in self._last_turns(optimizers, keys).items()}

    def share_turn(self, optimizers: Sequence[Optimizer], keys: Iterable[str]) -> None:
        """Record that the scheduler has set these values together with the last of the others."""
        self.turns = self._last_turns(optimizers, keys)

    def find_later(self, optimizers: Sequence[Optimizer], keys: Iterable[str]) -> tuple[str, str] | None:
        """Return a value that another scheduler has set later, and the name of that scheduler; None if all is well."""
        later = [
            (key, o.name) for o in self._others(optimizers) for key in keys if o.turns.get(key, 0) > self.turns[key]
        ]
        return later[0] if later else None

    def _last_turns(self, optimizers: Sequence[Optimizer], keys: Iterable[str]) -> dict[str, int]:
        others = self._others(optimizers)
        return {key: max((other.turns.get(key, 0) for other in others), default=0) for key in keys}

    def _others(self, optimizers: Sequence[Optimizer]) -> list["StepRecord"]:
        """Return the records of the other schedulers of an optimizer that still exist."""
        hooks = [h for one in optimizers for h in getattr(one, "_optimizer_step_post_hooks", {}).values()]
        return [hook for hook in hooks if isinstance(hook, StepRecord) and hook is not self]
