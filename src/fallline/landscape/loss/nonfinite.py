"""Detection of batches whose loss or gradient is not finite at any learning rate, which is not divergence."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from fallline.errors import LossError
from fallline.landscape.loss.averaging import LossFn, check_finite, check_loss


def check_batches(
    batches: Iterable[tuple[int, Any]],
    model: nn.Module,
    loss_fn: LossFn | None,
    step: Callable[[Any], Any] | None,
    params: Sequence[torch.Tensor],
) -> None:
    """Raise unless batches have finite losses and gradients at the current weights. This overwrites `.grad`.

    Args:
        batches: batches, each with its number.
        model, loss_fn, step: as for `lr_range`. `step` has already used the graph, so that only its loss is checked.
        params: parameters whose gradients are checked.

    Raises:
        LossError: the loss or the gradient of a batch is not finite.
    """
    for number, batch in batches:
        loss: Any = loss_fn(model, batch) if loss_fn is not None else step(batch) if step is not None else 0.0
        check_finite("lr_range", torch.as_tensor(loss).detach(), number, model)
        if loss_fn is None:
            continue
        for p in params:
            p.grad = None
        check_loss("lr_range", loss).backward()
        if not all(bool(p.grad.isfinite().all()) for p in params if p.grad is not None):
            raise LossError(
                f"lr_range: the gradient must be finite before any update, got NaN or Inf for batch {number}; "
                "look for a square root, norm or logarithm of 0"
            )
