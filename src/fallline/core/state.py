"""What a parameter needs before it can be updated: a gradient of the right kind, and its state."""

from typing import Any

import torch

from fallline.dtensor import is_sharded
from fallline.errors import GradientError
from fallline.rules.rule import EMA, MASTER
from fallline.rules.update import Update


def check_gradient(name: str, param: torch.Tensor) -> bool:
    """Raise GradientError when the gradient of a parameter cannot be used by the optimizer called `name`."""
    grad = param.grad
    assert grad is not None
    if grad.layout is not torch.strided:
        raise GradientError(
            f"{name}: gradients must be dense, got one of layout {grad.layout} for a parameter of shape "
            f"{tuple(param.shape)}; use torch.nn.Embedding(sparse=False) or torch.optim.SparseAdam"
        )
    if grad.is_complex() and not param.is_complex():
        raise GradientError(f"{name}: a real parameter needs a real gradient, got {grad.dtype} for {param.dtype}")
    if is_sharded(grad) != is_sharded(param):
        raise GradientError(
            f"{name}: the gradient of a DTensor must be a DTensor, and only that, got a {type(grad).__name__} for a "
            f"{type(param).__name__} of shape {tuple(param.shape)}; distribute_tensor() makes one"
        )
    return True


def complete_state(state: dict[str, Any], param: torch.Tensor, update: Update) -> bool:
    """Create what is missing in the state of a parameter; return whether any of it was, copies of it aside."""
    missing = [key for key in update.state if state.get(key) is None and key not in (EMA, MASTER)]
    for key in missing:
        dtype = update.state_dtype or _state_dtype(param)
        state[key] = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False)
    for key in (EMA, MASTER):
        if key in update.state and state.get(key) is None:
            state[key] = param.detach().to(_state_dtype(param), copy=True)
    if update.counts_steps and "step" not in state:
        state["step"] = torch.zeros((), dtype=torch.float32)
    return bool(missing)


def _state_dtype(param: torch.Tensor) -> torch.dtype:
    # NOTE [state dtype]: rounding to nearest in half precision stalls running means (decision 0003).
    return torch.float32 if param.dtype in (torch.float16, torch.bfloat16) else param.dtype
