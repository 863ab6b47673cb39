"""Optimizers that train at other weights than they would be used with: which ones are in the model, and when.

A schedule-free optimizer has methods `train` and `eval`; one of ours with `ema_decay` keeps averages beside the model.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


def switch_to_training(optimizer: Any) -> None:
    """Put the weights for training into the model, as a schedule-free optimizer needs before its first step."""
    inner = _inner(optimizer)
    if callable(getattr(inner, "train", None)):
        inner.train()


def switch_to_evaluation(optimizer: Any) -> None:
    """Put the weights that would be used into the model, for good."""
    inner = _inner(optimizer)
    if callable(getattr(inner, "eval", None)):
        inner.eval()


@contextmanager
def evaluation_weights(optimizer: Any, averages: bool = True) -> Iterator[None]:
    """Have the weights in the model that would be used, for a block; training is not changed by it, bit-for-bit.

    Args:
        optimizer: a torch optimizer, or SAM around one.
        averages: whether averages are used where it keeps some; there are none before the first step.
    """
    inner = _inner(optimizer)
    with ExitStack() as stack:
        if averages and inner.param_groups[0].get("ema_decay") is not None:
            stack.enter_context(inner.ema_weights())
        if callable(getattr(inner, "eval", None)):
            kept = [(p, p.detach().clone()) for group in inner.param_groups for p in group["params"]]
            inner.eval()
            stack.callback(_restore, inner, kept)
        yield


def _restore(optimizer: Any, kept: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    optimizer.train()
    for param, value in kept:
        param.data.copy_(value)  # the way there and back has rounded them


def _inner(optimizer: Any) -> Any:
    """Return the optimizer that updates: the one inside SAM, or itself."""
    return getattr(optimizer, "base", optimizer)
