"""Switch a model between training weights and evaluation weights, for optimizers that distinguish them.

Fallline's optimizers have a method `averaged`, for the averages of `ema_decay` and of schedule-free optimizers. The
schedule-free optimizers of other libraries have methods `train` and `eval`.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


def switch_to_training(optimizer: Any) -> None:
    """Load the training weights into the model; a schedule-free optimizer requires this before its first step."""
    inner = _inner(optimizer)
    if callable(getattr(inner, "train", None)):
        inner.train()


def switch_to_evaluation(optimizer: Any) -> None:
    """Load the evaluation weights into the model permanently."""
    inner = _inner(optimizer)
    if callable(getattr(inner, "eval", None)):
        inner.eval()


@contextmanager
def evaluation_weights(optimizer: Any) -> Iterator[None]:
    """Load the evaluation weights into the model within a block; training continues bit-for-bit as without it.

    Args:
        optimizer: a torch optimizer, or SAM around one.
    """
    inner = _inner(optimizer)
    with ExitStack() as stack:
        if callable(getattr(inner, "averaged", None)):
            stack.enter_context(inner.averaged())
        elif callable(getattr(inner, "eval", None)):
            kept = [(p, p.detach().clone()) for group in inner.param_groups for p in group["params"]]
            inner.eval()
            stack.callback(_restore, inner, kept)
        yield


def _restore(optimizer: Any, kept: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    optimizer.train()
    for param, value in kept:
        param.data.copy_(value)  # switching to eval and back rounds the weights


def _inner(optimizer: Any) -> Any:
    """Return the base optimizer of SAM, or the optimizer itself."""
    return getattr(optimizer, "base", optimizer)
