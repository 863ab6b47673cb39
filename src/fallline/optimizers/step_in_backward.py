"""Stepping while the backward pass runs: each gradient is used and freed as soon as it is there."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from fallline.core.optimizer import Optimizer
from fallline.errors import ArgumentError, ArgumentTypeError, StateError

_NAME = "step_in_backward"


class StepInBackward:
    """What `step_in_backward` returns: it accumulates gradients when asked to, and goes away."""

    def __init__(self, opt: Optimizer) -> None:
        self._opt = opt
        self._accumulating = False
        self._parts: dict[torch.Tensor, Optimizer] = {}
        self._groups: list[dict[str, Any]] = []
        self._owners: dict[torch.Tensor, dict[str, Any]] = {}
        self._places: dict[torch.Tensor, int] = {}
        self._find_groups()
        self._handles: list[RemovableHandle] = [
            opt.register_step_pre_hook(_refuse_scaler),
            *(p.register_post_accumulate_grad_hook(self._update) for p in self._owners if p.requires_grad),
        ]

    def _find_groups(self) -> None:
        """Work out anew which group each parameter is in, and its number, where the groups are no longer the same."""
        if list(map(id, self._groups)) != list(map(id, self._opt.param_groups)):
            self._groups = list(self._opt.param_groups)
            self._owners = {param: group for group in self._groups for param in group["params"]}
            self._places = {param: place for place, param in enumerate(self._owners)}
            self._parts.clear()

    @contextmanager
    def accumulate(self) -> Iterator[None]:
        """Let gradients add up in `.grad` for the duration of the block; the next backward pass after it steps."""
        before, self._accumulating = self._accumulating, True
        try:
            yield
        finally:
            self._accumulating = before

    def remove(self) -> None:
        """Go back to a backward pass that steps nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._parts.clear()

    def _update(self, param: torch.Tensor) -> None:
        if self._accumulating:
            return
        opt = self._opt
        opt._plan = None  # what it knows of the ages is soon old; a part finds out by itself when the whole has stepped
        self._find_groups()
        if param not in self._owners:  # its group has been taken away: nobody updates it any more
            return
        group = self._owners[param]
        _check(opt, group)
        part = self._part(param)
        part.param_groups = [{**group, "params": [param]}]
        state = opt.state[param]
        if part.state.get(param) is not state:
            part.state = {param: state}  # type: ignore[assignment]
        with torch.no_grad():
            part._update()
        param.grad = None

    def _part(self, param: torch.Tensor) -> Optimizer:
        """Return the optimizer of one parameter, which shares its options and state with the whole."""
        if param not in self._parts:
            part = copy.copy(self._opt)
            part._plan, part._places, part.state = None, self._places, {}  # type: ignore[assignment]
            self._parts[param] = part
        return self._parts[param]


def step_in_backward(model: torch.nn.Module, opt: Optimizer) -> StepInBackward:
    """Let every backward pass update each parameter as soon as its gradient is there, and free the gradient.

    All gradients never exist at once, so the peak of memory falls by about their size. The steps are those of
    `opt.step()` to the bit, with the learning rates and options of the time of the backward pass. Go on calling
    `opt.step()`, for schedulers and hooks that count it: it finds no gradients and changes nothing.

    Under FSDP2 a step begins when the gradient of a shard has been reduced. What needs all gradients at once is
    refused: clip_grad_norm, SAM, and (when it first calls `step`) a GradScaler. LAMB's ratio is of one tensor, and
    works. Parameters that are added to `opt` later are left to `opt.step()`.

    A backward pass inside another, as of reentrant checkpointing, makes steps of its own: of a layer that is used
    twice, one for each use. Pass `use_reentrant=False` to `torch.utils.checkpoint`.

    Args:
        model: whose backward pass it is; not under DistributedDataParallel, which reduces gradients later.
        opt: an optimizer of Fallline over parameters of `model`.

    Returns:
        A handle: gradients add up inside `with handle.accumulate():`, and `handle.remove()` ends it all.

    Raises:
        ArgumentTypeError: `opt` is SAM, which needs all gradients at once, or not an optimizer of Fallline.
        ArgumentError: a norm over all gradients is asked for, or the model does not hold the parameters.
        StateError: a parameter is updated in the backward pass already.

    Example:
        >>> import torch, fallline as fl
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.fill_(1.0)
        >>> opt = fl.SGD(model.parameters(), lr=0.5)
        >>> handle = fl.step_in_backward(model, opt)
        >>> model(torch.ones(1, 1)).sum().backward()
        >>> model.weight.item(), model.weight.grad
        (0.5, None)
    """
    _check_arguments(model, opt)
    return StepInBackward(opt)


def _check_arguments(model: Any, opt: Any) -> None:
    """Raise an error when these two cannot go together."""
    if not isinstance(opt, Optimizer):
        raise ArgumentTypeError(
            f"{_NAME}: opt must be an optimizer of Fallline that needs one gradient at a time, got a "
            f"{type(opt).__name__}; " + ("SAM climbs along all of them" if hasattr(opt, "base") else "pass fl.AdamW")
        )
    if isinstance(model, DistributedDataParallel):
        raise ArgumentError(
            f"{_NAME}: model must not be under DistributedDataParallel, which reduces gradients after they are "
            "used here, got one; use fully_shard, or ordinary steps"
        )
    if not isinstance(model, torch.nn.Module):
        raise ArgumentTypeError(f"{_NAME}: model must be a torch.nn.Module, got {model!r}; pass the model")
    held = set(map(id, model.parameters()))
    owned = [p for group in opt.param_groups for p in group["params"]]
    if foreign := [p for p in owned if id(p) not in held]:
        raise ArgumentError(
            f"{_NAME}: every parameter of the optimizer must be one of the model, got {len(foreign)} others, one of "
            f"shape {tuple(foreign[0].shape)}; pass the model that the optimizer was made for"
        )
    if taken := [p for p in owned if any(map(_is_ours, (p._post_accumulate_grad_hooks or {}).values()))]:
        raise StateError(
            f"{_NAME}: parameters must be updated in the backward pass by one optimizer, got {len(taken)} that are "
            "already; call remove() on what the first call returned"
        )
    for group in opt.param_groups:
        _check(opt, group)


def _is_ours(hook: Any) -> bool:
    return isinstance(getattr(hook, "__self__", None), StepInBackward)


# Options that need more than one gradient at a time, or the gradient afterwards, and why they cannot have it.
_REFUSED = {
    "clip_grad_norm": "the norm is known only when the last gradient is there, and the first is freed by then; "
    "clip_grad_value works, and so do the norms of single tensors that LAMB takes",
    "differentiable": "autograd would need the gradients that are freed; take ordinary steps",
}


def _check(opt: Optimizer, group: dict[str, Any]) -> None:
    """Raise ArgumentError when a group, or the rule, needs more than one gradient at a time."""
    for option, reason in _REFUSED.items():
        if group.get(option):
            raise ArgumentError(f"{_NAME}: {option} must be left out, got {group[option]!r}: {reason}")
    if opt.rule.global_norms:
        raise ArgumentError(
            f"{_NAME}: the rule must take no norm over all parameters, for they are updated one after the other, got "
            f"{opt.rule.name}; take ordinary steps"
        )


def _refuse_scaler(opt: torch.optim.Optimizer, args: Any, keywords: Any) -> None:
    """Raise StateError when a GradScaler calls `step`: it has scaled gradients that have been used already."""
    if hasattr(opt, "found_inf"):
        raise StateError(
            f"{_NAME}: step() must not be called by a GradScaler, whose scaled gradients the parameters have taken "
            "already, got its call; load the parameters again, and use bfloat16, which needs no scaling, or ordinary "
            "steps"
        )
