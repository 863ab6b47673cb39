"""Norms of gradients, alone and relative to the second moments in the state of an optimizer."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from fallline.errors import StateError

# State keys of a running mean of squared gradients, and the option that exists if the mean is bias-corrected.
_SECOND_MOMENTS = {"exp_avg_sq": "betas", "square_avg": None}
# Of three betas, the place of that of exp_avg_sq, by a state that tells the optimizers apart: AdEMAMix and Adan.
_PLACES = {"exp_avg_slow": 1, "exp_avg_diff": 2}


def find_staleness(optimizer: Any, group: Mapping[str, Any], factor: float) -> list[float]:
    """Return √mean(g²/v̂) of every parameter of a group whose state has second moments.

    Args:
        optimizer: the optimizer after its step.
        group: one of its parameter groups.
        factor: the gradients were used multiplied by this factor.

    Raises:
        StateError: v̂ cannot be computed from the state.
    """
    found = []
    for param in group["params"]:
        as_numbers = getattr(optimizer, "state_as_numbers", optimizer.state.get)  # PyTorch's have only numbers
        state = as_numbers(param)
        key = next((key for key in _SECOND_MOMENTS if key in state), None) if isinstance(state, Mapping) else None
        if key is None or param.grad is None or param.grad.is_sparse:
            continue
        moment = _second_moment(type(optimizer).__name__, key, state, group, param)
        floor = max(float(group.get("eps") or 0.0) ** 2, torch.finfo(torch.float32).tiny)
        squares = (param.grad.detach().float() * factor) ** 2
        found.append(float((squares / moment.clamp_min(floor)).mean().sqrt()))
    return found


def _second_moment(
    name: str, key: str, state: Mapping[str, Any], group: Mapping[str, Any], param: torch.Tensor
) -> torch.Tensor:
    """Return v̂ of a parameter of the optimizer called `name`, without its bias."""
    moment = state[key]
    if not isinstance(moment, torch.Tensor) or moment.shape != param.shape:
        raise StateError(f"{key} in the state of {name} does not have the shape of its parameter")
    moment = moment.detach().float()
    betas = _SECOND_MOMENTS[key]
    if betas is None or betas not in group:
        return moment
    if "step" not in state:  # in the groups of some optimizers; their moments are not always those of the gradient
        raise StateError(f"the state of {name} has {key} but no step, by which its bias is corrected")
    place = 1 if len(group[betas]) == 2 else next((place for k, place in _PLACES.items() if k in state), None)
    if place is None:
        raise StateError(f"the groups of {name} do not have two betas, of which the second is that of {key}")
    step = float(state["step"])
    if step <= 0:
        raise StateError(f"the state of {name} has step={step}, so its {key} has no value yet")
    corrected: torch.Tensor = moment / (1 - float(group[betas][place]) ** step)
    return corrected


def scale_of(optimizer: Any) -> float:
    """Return the factor by which the gradients in `.grad` are still scaled."""
    scale = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else float(scale)


def square(tensor: torch.Tensor) -> torch.Tensor:
    """Return the squared norm of a dense or sparse tensor, at least in float32."""
    dense = tensor.detach().coalesce().values() if tensor.is_sparse else tensor.detach()
    norm: torch.Tensor = torch.linalg.vector_norm(dense, dtype=torch.float32 if dense.dtype.itemsize < 4 else None)
    return norm**2


def length(squares: Iterable[torch.Tensor]) -> float:
    """Return the norm of all tensors of which these are the squared norms."""
    return math.sqrt(math.fsum(float(one) for one in squares))
