"""Which batch makes a loss or a gradient not finite, whatever the learning rate: that is no divergence."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from fallline.errors import LossError
from fallline.landscape.loss.averaging import LossFn, check_finite


def check_batches(
    batches: Iterable[tuple[int, Any]],
    model: nn.Module,
    loss_fn: LossFn | None,
    step: Callable[[Any], Any] | None,
    params: Sequence[torch.Tensor],
) -> None:
    """Check that batches have finite losses and gradients at the weights of now, and leave gradients behind.

    Args:
        batches: each with its number.
        model, loss_fn, step: as for `lr_range`; a step has used its graph up, so of its batch the loss alone is looked
            at.
        params: whose gradients are looked at.

    Raises:
        LossError: a batch has not.
    """
    for number, batch in batches:
        loss: Any = loss_fn(model, batch) if loss_fn is not None else step(batch) if step is not None else 0.0
        check_finite("lr_range", torch.as_tensor(loss).detach(), number, model)
        if loss_fn is None:
            continue
        for p in params:
            p.grad = None
        loss.backward()
        if not all(bool(p.grad.isfinite().all()) for p in params if p.grad is not None):
            raise LossError(
                f"lr_range: the gradient must be finite before any update, got one for batch {number} that is not; "
                "look for a root, norm or logarithm of 0"
            )
