"""Preparation of a parameter for its update: check the gradient and create the state."""

from collections.abc import Mapping
from typing import Any

import torch

from fallline.backends.blocks import are_blocks, blocks_of, new_blocks, put_into_blocks, take_out_of_blocks
from fallline.backends.layout import NAMED_DTYPES
from fallline.backends.split import DTYPES as REMAINDERS
from fallline.backends.split import join, split
from fallline.core.options import DTYPES
from fallline.dtensor import is_sharded, local_part, on_parts, zeros_beside
from fallline.errors import GradientError, StateError
from fallline.rules.rule import EMA, MASTER, Rule
from fallline.rules.update import Update, codes_key, scale_key


def check_gradient(name: str, param: torch.Tensor) -> bool:
    """Raise GradientError if the optimizer called `name` cannot use the gradient of a parameter; else return True."""
    grad = param.grad
    assert grad is not None
    if grad.layout is not torch.strided:
        raise GradientError(
            f"{name}: gradients must be dense, got one of layout {grad.layout} for a parameter of shape "
            f"{tuple(param.shape)}; use torch.nn.Embedding(sparse=False) or torch.optim.SparseAdam"
        )
    if param.dtype not in DTYPES:  # the parameter was frozen when its group was added
        raise GradientError(
            f"{name}: a parameter with a gradient must be float32, float64, bfloat16, float16 or complex, got one of "
            f"{param.dtype}; convert it before you train it"
        )
    if grad.is_complex() and not param.is_complex():
        raise GradientError(f"{name}: a real parameter needs a real gradient, got {grad.dtype} for {param.dtype}")
    if is_sharded(grad) != is_sharded(param):
        raise GradientError(
            f"{name}: parameter and gradient must both be DTensors or both plain tensors, got a gradient of type "
            f"{type(grad).__name__} for a {type(param).__name__} of shape {tuple(param.shape)}; convert one of them "
            "with distribute_tensor() or full_tensor()"
        )
    return True


def real_shape(tensor: torch.Tensor) -> tuple[int, ...]:
    """Return the shape of a tensor, or of its view as pairs of real numbers if it is complex."""
    return (*tensor.shape, 2) if tensor.is_complex() else tuple(tensor.shape)


def shapes_of(rule: Rule, param: torch.Tensor, group: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every state that the rule keeps for a parameter, of the real view if the state is complex."""
    return rule.state_shapes(real_shape(param), group)


def complete_state(
    name: str, state: dict[str, Any], param: torch.Tensor, update: Update, group: Mapping[str, Any]
) -> bool:
    """Create missing state of a parameter; return whether any was missing, not counting averages and master weights.

    If the group is `differentiable`, autograd records that a state starts as a copy of the parameter.

    Raises:
        GradientError: the parameter has become complex, or real, since the optimizer called `name` made its state.
    """
    shapes = shapes_of(update.rule, param, group)
    own = update.rule.own_shapes(real_shape(param), group)
    fit_blocks(name, state, param, update)
    missing = [key for key in update.state if not _has(state, key) and key not in (EMA, MASTER)]
    for key in missing:
        if key in update.rule.copies:  # like other copies of the parameter, it has no lower precision
            source = param if group.get("differentiable") else param.detach()
            state[key] = source.to(_state_dtype(param), copy=True)
            continue
        if key in own:  # small, or sensitive to rounding
            state[key] = zeros_beside(param, shapes[key], _state_dtype(param).to_real())
            continue
        if key in update.in_blocks:
            new_blocks(state, key, param, _dtype_of_codes(update, key))
            continue
        dtype = _dtype_of_state(update, param)
        state[key] = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False)
    used = {key: state[stored] for key, stored in zip(update.state, update.stored, strict=True) if _has(state, key)}
    if any(real_shape(value) != shapes.get(key, real_shape(param)) for key, value in used.items()):
        raise GradientError(
            f"{name}: the state of a parameter must be complex if the parameter is, got a parameter of {param.dtype} "
            "with state of another kind or shape; delete its entry in optimizer.state after you convert it"
        )
    if EMA in update.state and state.get(EMA) is None:
        state[EMA] = param.detach().to(_state_dtype(param), copy=True)
    if MASTER in update.state:
        state[MASTER] = _master(state.get(MASTER), param, update.remainder_bits)
    if update.counts_steps and "step" not in state:
        state["step"] = new_step(0.0)
    for key, value in update.rule.scalar_state.items():
        if state.get(key) is None:
            state[key] = new_scalar(value)
    return bool(missing)


def fit_blocks(name: str, state: dict[str, Any], param: torch.Tensor, update: Update) -> None:
    """Put the states of a parameter into blocks, or take them out, as its update wants them.

    Raises:
        StateError: codes and scales do not fit together; the optimizer is called `name`.
    """
    for key in update.state:
        if state.get(codes_key(key)) is not None:
            check_blocks(name, state, key)
        if key not in update.in_blocks:
            if state.get(codes_key(key)) is not None:
                take_out_of_blocks(state, key, _dtype_of_state(update, param))
            continue
        dtype = _dtype_of_codes(update, key)
        if state.get(codes_key(key)) is not None and state[codes_key(key)].dtype != dtype:
            take_out_of_blocks(state, key, torch.float32)  # of a rule that declared it otherwise
        if state.get(key) is not None:
            put_into_blocks(state, key, dtype)


def check_blocks(owner: str, state: Mapping[str, Any], key: str) -> None:
    """Raise StateError if the codes and scales of a state do not fit together; `owner` begins the message."""
    codes, scales = state[codes_key(key)], state.get(scale_key(key))
    if not are_blocks(codes, scales):
        found = f"{scales.dtype} of shape {tuple(scales.shape)}" if isinstance(scales, torch.Tensor) else repr(scales)
        raise StateError(
            f"{owner}: {codes_key(key)} must be int8 or uint8, with a contiguous float32 {scale_key(key)} of shape "
            f"{(blocks_of(local_part(codes).numel()),)} on its device, got {codes.dtype} and {found}; put back what "
            "state_dict() returned, or delete the state of the parameter"
        )


def _dtype_of_codes(update: Update, key: str) -> torch.dtype:
    return torch.uint8 if key in update.rule.non_negative else torch.int8


def _has(state: Mapping[str, Any], key: str) -> bool:
    return state.get(key) is not None or state.get(codes_key(key)) is not None


def _master(found: torch.Tensor | None, param: torch.Tensor, bits: int | None) -> torch.Tensor:
    """Return the master weights of a parameter, new ones or those found in another format.

    Args:
        found: the present state: float32 weights, or the remainders of split weights.
        param: the parameter.
        bits: the number of bits of a remainder, or None for float32 weights.
    """
    if found is not None and found.dtype == (REMAINDERS[bits] if bits else _state_dtype(param)):
        return found
    if found is None:
        weights: torch.Tensor = param.detach().to(_state_dtype(param), copy=True)
    else:  # of a state dict, or of an option that has changed
        weights = on_parts(join, param.detach(), found) if found.dtype in REMAINDERS.values() else found
    if bits is None:
        return weights
    halves: tuple[torch.Tensor, torch.Tensor] = on_parts(lambda part: split(part, bits), weights)
    with torch.no_grad():
        param.copy_(halves[0])  # weights decide what the parameter is, in this format too
    return halves[1]


def new_step(value: float | list[float]) -> torch.Tensor:
    """Return a step counter, or a vector of them, on the CPU, whatever the default device is."""
    return torch.tensor(value, dtype=torch.float32, device="cpu")


def new_scalar(value: float | list[float]) -> torch.Tensor:
    """Return another number of the state, or a vector of them: float64, because products and sums add up rounding."""
    return torch.tensor(value, dtype=torch.float64, device="cpu")


def _dtype_of_state(update: Update, param: torch.Tensor) -> torch.dtype:
    """Return the dtype of new state that is not in blocks."""
    chosen: torch.dtype = NAMED_DTYPES.get(update.state_dtype, update.state_dtype) or _state_dtype(param)
    return chosen


def _state_dtype(param: torch.Tensor) -> torch.dtype:
    # NOTE [state dtype]: running means in half precision stall when they are rounded to nearest (decision 0003).
    return torch.float32 if param.dtype in (torch.float16, torch.bfloat16) else param.dtype
