"""A model in float64, as the reference for what it computes in its own precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from fallline.landscape.loss.batches import map_tensors
from fallline.landscape.loss.fallbacks import warn
from fallline.landscape.loss.objective import Objective


@contextmanager
def doubled(objective: Objective) -> Iterator[None]:
    """Compute the loss in float64 within the block: model, batches, and tensors that the loss casts to another type."""
    tensors = list({*objective.model.parameters(), *objective.model.buffers(), *objective.params})
    held = [(t, t.data) for t in tensors if t.is_floating_point()]
    grads = [(p, p.grad) for p in tensors if p.grad is not None]
    before = objective.dtype, objective.eps, objective.convert
    try:
        for p, _ in grads:
            p.grad = None  # `.grad` must have the dtype of its parameter
        for t, value in held:
            t.data = value.double()
        objective.dtype, objective.eps = torch.float64, torch.finfo(torch.float64).eps
        objective.convert = _to_double
        with _InFloat64():  # type: ignore[no-untyped-call]
            yield
    finally:
        objective.dtype, objective.eps, objective.convert = before
        for t, value in held:
            t.data = value
        for p, grad in grads:
            p.grad = grad


def precision(objective: Objective) -> torch.dtype:
    """Return the least precise type in which the loss of the first batch is computed."""
    with objective.measuring(), torch.no_grad():
        _, batch, _ = next(objective.batches())
        found = _Precision(objective.dtype)
        with found:
            objective.loss(batch)
    return found.dtype


def check_precision(objective: Objective) -> None:
    """Set `eps` of an objective to that of the least precise type, and warn if this is less precise than float32."""
    dtype = precision(objective)
    objective.eps = torch.finfo(dtype).eps
    if objective.eps > torch.finfo(torch.float32).eps:
        name = str(dtype).removeprefix("torch.")
        warn(
            objective.owner,
            f"the loss is computed in {name}, so that products have two or three digits and error bounds are wide; "
            "compute it without autocast",
        )


def _to_double(batch: Any) -> Any:
    return map_tensors(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, batch)


class _Precision(TorchDispatchMode):
    """Records the least precise type among the results of operations."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype: torch.dtype = dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                self.dtype = max(self.dtype, tensor.dtype, key=lambda dtype: torch.finfo(dtype).eps)
        return found


class _InFloat64(TorchDispatchMode):
    """Replaces casts to less precise types, such as `logits.float()`, by float64.

    Autocast needs no replacement, because it does not cast float64 tensors.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.is_view or func._schema.is_mutable:  # the result must be the tensor that was given
            return func(*args, **kwargs)
        return tree_map(_widened, func(*args, **{name: _widened(value) for name, value in kwargs.items()}))


def _widened(value: Any) -> Any:
    """Return a type or a tensor in float64 if it is a less precise one, and anything else as it is."""
    if isinstance(value, torch.dtype):
        return torch.float64 if value.is_floating_point else value
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype != torch.float64:
        return value.double()
    return value
