"""The second oracle: the same case run by `torch.optim` in float64, where torch can express it."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from oracles import options, problem
from oracles.golden import Golden
from oracles.problem import Array, Case

TOLERANCE = 1e-12  # relative, of any element; the largest measured is 4.3e-13, near a zero crossing


@contextmanager
def _float64_by_default() -> Iterator[None]:
    """Let torch keep numbers such as NAdam's product of momenta in float64: they have the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@_float64_by_default()
def run(case: Case, oracle: ModuleType) -> Golden | None:
    """Return the record of a case run by torch, or None where torch cannot express it.

    A decay mode that torch's class lacks is its optimizer without decay, and one multiplication before each step (so
    such a case must name its `weight_decay`: the class's default is not known here). An oracle whose step depends on
    the parameter before decay, which torch's class would not see, sets `BY_HAND = False`.
    """
    modes: dict[str, str] = getattr(oracle, "TORCH", {})
    if not modes:
        return None
    config: dict[str, Any]
    config, around = options.split(case.config)
    if around.cautious or around.cautious_weight_decay:
        return None
    default = inspect.signature(oracle.update).parameters["weight_decay_mode"].default
    mode = config.pop("weight_decay_mode", default)
    by_hand = config.pop("weight_decay") if mode not in modes else None
    if by_hand is not None:
        config["weight_decay"] = 0.0
    if by_hand is not None and not getattr(oracle, "BY_HAND", True):
        return None
    optimizer_class = getattr(torch.optim, modes.get(mode, next(iter(modes.values()))))
    if not config.keys() <= inspect.signature(optimizer_class).parameters.keys():
        return None
    params = {name: torch.from_numpy(value) for name, value in problem.initial().items()}
    optimizer = optimizer_class(list(params.values()), **config)
    lr0 = optimizer.param_groups[0]["lr"]
    trajectory = {}
    averages: dict[str, torch.Tensor] = {}
    for step in range(1, problem.STEPS + 1):
        lr = optimizer.param_groups[0]["lr"] = lr0 if case.lrs is None else case.lrs[step - 1]
        for name, grad in problem.gradients(step, case.late).items():
            params[name].grad = None if grad is None else torch.from_numpy(grad)
            if grad is not None and by_hand is not None:
                params[name].mul_(1 - by_hand * _rate(mode, lr, lr0))
        _clip(list(params.values()), around)
        before = {name: param.clone() for name, param in params.items()}
        optimizer.step()
        for name, param in params.items():
            if around.ema_decay is not None and param.grad is not None:
                averages.setdefault(name, before[name]).lerp_(param, 1 - around.ema_decay)
        if step in problem.RECORDED:
            trajectory[step] = {name: param.numpy().copy() for name, param in params.items()}
    kept = {name: {"ema": average} for name, average in averages.items()}
    state = {name: _arrays({**optimizer.state[param], **kept.get(name, {})}) for name, param in params.items()}
    label = f"torch.optim.{optimizer_class.__name__}" + ("" if by_hand is None else " with the decay by hand")
    return Golden(case, trajectory, state, (label,))


def _clip(params: list[torch.Tensor], around: options.Options) -> None:
    if around.clip_grad_value is not None:
        torch.nn.utils.clip_grad_value_(params, around.clip_grad_value)
    if around.clip_grad_norm is not None:
        torch.nn.utils.clip_grad_norm_(params, around.clip_grad_norm)


def _rate(mode: str, lr: float, lr0: float) -> float:
    if mode == "decoupled":
        return lr
    return lr / lr0 if lr0 else 0.0


def _arrays(state: dict[str, torch.Tensor | None]) -> dict[str, Array]:
    return {key: value.double().numpy() for key, value in state.items() if value is not None}
