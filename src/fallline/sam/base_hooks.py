"""Hooks of SAM's base optimizer, which refuse calls that bypass SAM between its two phases."""

import weakref
from collections.abc import Iterable
from typing import Any, Protocol

import torch


class Phases(Protocol):
    """An optimizer whose step has two phases."""

    def check_finished(self, what: str, got: str) -> None:
        """Raise StateError between the two phases."""


def guard_base(base: torch.optim.Optimizer, sam: Phases, previous: Iterable[Any] = ()) -> list[Any]:
    """Register hooks that raise StateError if the base is used directly between the two phases of SAM.

    There the parameters are perturbed: a checkpoint would be wrong, and the second phase would undo a step.

    Args:
        base: the optimizer inside.
        sam: it is not kept alive by the hooks.
        previous: handles that an earlier call for the same optimizers returned; their hooks are removed.

    Returns:
        The handles of the hooks.
    """
    for handle in previous:
        handle.remove()
    if not hasattr(base, "_optimizer_step_pre_hooks"):
        return []  # a wrapper without PyTorch's constructor, such as accelerate's, runs no hooks of its own
    ref = weakref.ref(sam)

    def refuse(what: str, got: str) -> None:
        if (owner := ref()) is not None:
            owner.check_finished(what, got)

    return [
        base.register_state_dict_pre_hook(lambda *_: refuse("saving", "base.state_dict()")),
        base.register_load_state_dict_pre_hook(lambda *_: refuse("loading", "base.load_state_dict()")),
        base.register_step_pre_hook(lambda *_: refuse("a step of the base", "base.step()")),
    ]
