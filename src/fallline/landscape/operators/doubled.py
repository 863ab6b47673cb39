"""A model in float64, to compare what it computes in its own precision with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fallline.landscape.loss.batches import map_tensors
from fallline.landscape.loss.objective import Objective


@contextmanager
def doubled(objective: Objective) -> Iterator[Callable[[Any], Any]]:
    """Convert the model to float64 within the block, and yield a function that converts a batch."""
    tensors = list({*objective.model.parameters(), *objective.model.buffers(), *objective.params})
    held = [(t, t.data) for t in tensors if t.is_floating_point()]
    grads = [(p, p.grad) for p in tensors if p.grad is not None]
    dtype = objective.dtype
    try:
        for p, _ in grads:
            p.grad = None  # `.grad` must have the dtype of its parameter
        for t, value in held:
            t.data = value.double()
        objective.dtype = torch.float64
        yield _to_double
    finally:
        objective.dtype = dtype
        for t, value in held:
            t.data = value
        for p, grad in grads:
            p.grad = grad


def _to_double(batch: Any) -> Any:
    return map_tensors(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, batch)
