"""Which batch makes a loss or a gradient not finite, whatever the learning rate: that is no divergence."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from fallline.errors import ArgumentError
from fallline.landscape.averaging import LossFn


def check_batches(
    batches: Iterable[tuple[int, Any]],
    model: nn.Module,
    loss_fn: LossFn | None,
    step: Callable[[Any], Any] | None,
    params: Sequence[torch.Tensor],
) -> None:
    """Check that batches have finite losses and gradients at the weights of now, and leave gradients behind.

    Args:
        batches: each with its number, from 1 on.
        model, loss_fn, step: as for `lr_range`; a step has used its graph up, so of its batch the loss alone is looked
            at.
        params: whose gradients are looked at.

    Raises:
        ArgumentError: a batch has not.
    """
    for number, batch in batches:
        loss: Any = loss_fn(model, batch) if loss_fn is not None else step(batch) if step is not None else 0.0
        value = float(loss.detach() if isinstance(loss, torch.Tensor) else loss)
        if not math.isfinite(value):
            raise ArgumentError(
                f"lr_range: the loss of every batch must be finite before any update, got {value} of batch {number}, "
                "which no learning rate mends; look at its data, at the loss and at the model"
            )
        if loss_fn is None:
            continue
        for p in params:
            p.grad = None
        loss.backward()
        if not all(bool(p.grad.isfinite().all()) for p in params if p.grad is not None):
            raise ArgumentError(
                "lr_range: the gradient of every batch must be finite before any update, got one of batch "
                f"{number} that is not, which no learning rate mends; look for a root, norm or logarithm of 0"
            )
