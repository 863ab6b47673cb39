"""Optimizer steps during the backward pass: each gradient is used and freed as soon as it is computed."""

import copy
import warnings
import weakref
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._compile import _disable_dynamo
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from fallline.core.optimizer import Optimizer
from fallline.errors import ArgumentError, ArgumentTypeError, StateError, StateWarning

_NAME = "step_in_backward"


# NOTE [weak hooks]: PyTorch holds the hooks of a parameter in C++, where the garbage collector does not see them. A
# hook that reaches the parameter keeps it for ever, with the model, the optimizer and its state. So hooks reach the
# optimizer by a weak reference. The optimizer owns what updates the parameters, and this refers back to it weakly.


class StepInBackward:
    """Handle returned by `step_in_backward`, with methods to accumulate gradients and to remove the hooks.

    The hooks work without the handle, as long as the optimizer exists.
    """

    def __init__(self, opt: Optimizer) -> None:
        self._opt = opt  # a user may keep the handle alone
        self._updates = _Updates(opt)

    @contextmanager
    def accumulate(self) -> Iterator[None]:
        """Accumulate gradients in `.grad` for the duration of the block; the next backward pass after it updates."""
        before, self._updates.paused = self._updates.paused, True
        try:
            yield
        finally:
            self._updates.paused = before

    def remove(self) -> None:
        """Remove the hooks, so that backward passes no longer update parameters."""
        self._updates.remove()


class _Hook:
    """The hook of all parameters of an optimizer; see NOTE [weak hooks]."""

    def __init__(self, updates: "_Updates") -> None:
        self.updates = weakref.ref(updates)
        self._warned = False

    @_disable_dynamo  # see NOTE [untraced] in core/optimizer.py
    def __call__(self, param: torch.Tensor) -> None:
        updates = self.updates()
        if updates is not None:
            updates.make(param)
        elif not self._warned:
            self._warned = True
            warnings.warn(
                f"{_NAME}: the optimizer no longer exists, so backward passes do not update its parameters. Keep a "
                "reference to the optimizer or to the handle, or call remove() on the handle when training is over.",
                StateWarning,
                stacklevel=2,
            )


class _Updates:
    """The updates of single parameters, made by copies of the optimizer that share its options and state."""

    def __init__(self, opt: Optimizer) -> None:
        self._opt_ref = weakref.ref(opt)
        self.paused = False
        self._parts: dict[torch.Tensor, Optimizer] = {}
        self._groups: list[dict[str, Any]] = []
        self._owners: dict[torch.Tensor, dict[str, Any]] = {}
        self._places: dict[torch.Tensor, int] = {}
        self._find_groups()
        hook = _Hook(self)
        self._handles: list[RemovableHandle] = [
            opt.register_step_pre_hook(self._refuse_scaler),  # by this reference the optimizer owns the updates
            *(p.register_post_accumulate_grad_hook(hook) for p in self._owners if p.requires_grad),
        ]

    @property
    def _opt(self) -> Optimizer:
        opt = self._opt_ref()
        assert opt is not None, "the optimizer owns its updates"
        return opt

    def _refuse_scaler(self, opt: torch.optim.Optimizer, args: Any, keywords: Any) -> None:
        """Raise StateError if a GradScaler calls `step`, because its scaled gradients have already been applied."""
        if hasattr(opt, "found_inf"):
            raise StateError(
                f"{_NAME}: step() must not be called by a GradScaler, because its scaled gradients have already been "
                "applied to the parameters, got its call; load the parameters again, and use bfloat16, which needs no "
                "scaling, or do not use step_in_backward"
            )

    def _find_groups(self) -> None:
        """Find the group and the index of each parameter again if the list of groups has changed."""
        if list(map(id, self._groups)) != list(map(id, self._opt.param_groups)):
            self._groups = list(self._opt.param_groups)
            self._owners = {param: group for group in self._groups for param in group["params"]}
            self._places = {param: place for place, param in enumerate(self._owners)}
            self._parts.clear()

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._parts.clear()

    def make(self, param: torch.Tensor) -> None:
        """Update one parameter whose gradient has been accumulated, and free the gradient."""
        if self.paused:
            return
        opt = self._opt
        opt._plan = None  # its ages are out of date after this update; the plan of a part notices steps of `opt` itself
        self._find_groups()
        if param not in self._owners:  # its group has been removed, so the parameter is no longer trained
            return
        group = self._owners[param]
        _check(opt, group)
        part = self._part(param)
        part.param_groups = [{**group, "params": [param]}]
        part._averaged = opt._averaged
        state = opt.state.get(param)
        if part.state.get(param) is not state:
            part.state = defaultdict(dict, {} if state is None else {param: state})
        with torch.no_grad():
            part._update()
        if state is None and param in part.state:
            opt.state[param] = part.state[param]
        param.grad = None

    def _part(self, param: torch.Tensor) -> Optimizer:
        """Return the optimizer of a single parameter, which shares its options and state with the full optimizer."""
        if param not in self._parts:
            part = copy.copy(self._opt)
            part._plan, part._places, part.state = None, self._places, defaultdict(dict)
            self._parts[param] = part
        return self._parts[param]


def step_in_backward(model: torch.nn.Module, opt: Optimizer) -> StepInBackward:
    """Update each parameter during the backward pass as soon as its gradient is computed, and free the gradient.

    The gradients never exist all at once, so the peak memory falls by about their size. The updates are bit-for-bit
    those of `opt.step()`, with the learning rates and options at the time of the backward pass. Keep calling
    `opt.step()` for schedulers and hooks that count its calls; it finds no gradients and changes nothing.

    Under FSDP2, a parameter is updated when the gradient of its shard has been reduced. Features that need all
    gradients at once raise an error: clip_grad_norm, SAM, and a GradScaler (when it first calls `step`). LAMB works,
    because its trust ratio needs only one tensor. Parameters that are added to `opt` later are updated by `opt.step()`.

    A nested backward pass, as in reentrant checkpointing, makes its own updates: a layer that is used twice is updated
    once per use. Pass `use_reentrant=False` to `torch.utils.checkpoint` to avoid this.

    Args:
        model: the model whose backward pass updates the parameters; not under DistributedDataParallel, which reduces
            gradients later.
        opt: a Fallline optimizer of parameters of `model`.

    Returns:
        A handle: use `with handle.accumulate():` to accumulate gradients, and `handle.remove()` to remove the hooks.
        The hooks do not keep the model or the optimizer alive; keep a reference to the optimizer or to the handle.

    Raises:
        ArgumentTypeError: `opt` is SAM, which needs all gradients at once, or not a Fallline optimizer.
        ArgumentError: an option or the rule needs all gradients at once, or a parameter does not belong to the model.
        StateError: a parameter is already updated in the backward pass.

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
    """Raise an error if the model and the optimizer cannot be used together."""
    if not isinstance(opt, Optimizer):
        raise ArgumentTypeError(
            f"{_NAME}: opt must be an optimizer of Fallline that needs one gradient at a time, got a "
            f"{type(opt).__name__}; " + ("SAM needs all gradients at once" if hasattr(opt, "base") else "pass fl.AdamW")
        )
    if isinstance(model, DistributedDataParallel):
        raise ArgumentError(
            f"{_NAME}: model must not be under DistributedDataParallel, which reduces gradients after they are "
            "used here, got such a model; use fully_shard, or call opt.step()"
        )
    if not isinstance(model, torch.nn.Module):
        raise ArgumentTypeError(f"{_NAME}: model must be a torch.nn.Module, got {model!r}; pass the model")
    of_model = set(map(id, model.parameters()))
    owned = [p for group in opt.param_groups for p in group["params"]]
    if foreign := [p for p in owned if id(p) not in of_model]:
        raise ArgumentError(
            f"{_NAME}: every parameter of the optimizer must belong to the model, got {len(foreign)} others, one of "
            f"shape {tuple(foreign[0].shape)}; pass the model whose parameters the optimizer has"
        )
    if taken := [p for p in owned if any(map(_is_ours, (p._post_accumulate_grad_hooks or {}).values()))]:
        raise StateError(
            f"{_NAME}: parameters must be updated in the backward pass by only one optimizer, got {len(taken)} that "
            "already are; call remove() on the handle that the first call returned"
        )
    for group in opt.param_groups:
        _check(opt, group)


def _is_ours(hook: Any) -> bool:
    return isinstance(hook, _Hook) and hook.updates() is not None


# Options that need more than one gradient at a time, or the gradient after the update, and the reason for rejection.
_REFUSED = {
    "clip_grad_norm": "the norm is known only after the last gradient, when the first is already freed; "
    "clip_grad_value works, and so does LAMB, which needs only norms of single tensors",
    "differentiable": "autograd would need the gradients, which are freed; call opt.step() instead",
}


def _check(opt: Optimizer, group: dict[str, Any]) -> None:
    """Raise ArgumentError if a group or the rule needs more than one gradient at a time."""
    for option, reason in _REFUSED.items():
        if group.get(option):
            raise ArgumentError(f"{_NAME}: {option} must be left out, got {group[option]!r}: {reason}")
    rule = opt.rule_of(group)
    if rule.global_norms or rule.sums:
        raise ArgumentError(
            f"{_NAME}: the rule must take no norm over all parameters, because they are updated one after the other, "
            f"got {rule.name}; call opt.step() instead"
        )
