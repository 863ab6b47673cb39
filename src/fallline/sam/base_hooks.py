"""Hooks of SAM's base optimizer, which refuse calls that bypass SAM between its two phases."""

import weakref
from collections.abc import Iterable
from typing import Any, Protocol

import torch

from fallline.dtensor import is_sharded, local


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


def creates_state(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether a step is the one by which torch.distributed.checkpoint creates the state of an optimizer.

    It has no state, a learning rate of 0 and gradients of 0. A learning rate of 0 alone is the first step of a warm-up,
    in which a missing closure is a mistake as in any other step.
    """
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    grads = [local(grad) if is_sharded(grad) else grad for grad in grads]
    return (
        not optimizer.state
        and bool(grads)
        and all(float(group.get("lr", 1.0)) == 0 for group in optimizer.param_groups)
        and not any(bool(grad.any()) for grad in grads)
    )
