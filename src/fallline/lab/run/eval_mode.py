"""Switch a model between training weights and evaluation weights, for optimizers that distinguish them.

A schedule-free optimizer has methods `train` and `eval`; a Fallline optimizer with `ema_decay` keeps averaged weights.
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
def evaluation_weights(optimizer: Any, averages: bool = True) -> Iterator[None]:
    """Load the evaluation weights into the model within a block; training continues bit-for-bit as without it.

    Args:
        optimizer: a torch optimizer, or SAM around one.
        averages: whether to use the optimizer's averaged weights if it keeps any; there are none before the first step.
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
        param.data.copy_(value)  # switching to eval and back rounds the weights


def _inner(optimizer: Any) -> Any:
    """Return the base optimizer of SAM, or the optimizer itself."""
    return getattr(optimizer, "base", optimizer)
