"""Restoration of the model, the optimizer and the random number generators after a measurement, bit-for-bit."""

import copy
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from fallline.landscape.loss.snapshot import Snapshot, Undo, reachable, tensor_undo, tensors_in


@contextmanager
def restoring(
    model: nn.Module,
    optimizer: Optimizer | None = None,
    scaler: Any = None,
    data: Any = None,
    keep: Iterable[Any] = (),
) -> Iterator[None]:
    """Restore all state bit-for-bit after the block, also if it raises an error or is interrupted.

    The state consists of: parameters, buffers, `.grad` and the train/eval mode of every module; groups, state and
    attributes of the optimizer and of an optimizer that it wraps, in containers and objects of any depth; the scaler;
    and the random number generators of torch on every device, of NumPy, of Python and of a data loader. A copy of it is
    kept for the duration of the block.

    Args:
        model: the model.
        optimizer: the optimizer; it does not need to hold all parameters of the model.
        scaler: a `torch.amp.GradScaler`.
        data: a data loader whose generators are restored. The position of an iterator cannot be restored.
        keep: further objects with `state_dict` and `load_state_dict`, such as a schedule.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1)
        >>> before = layer.weight.detach().clone()
        >>> with restoring(layer):
        ...     _ = torch.nn.init.normal_(layer.weight)
        >>> torch.equal(layer.weight, before)
        True
    """
    params = trained(model, optimizer)
    undos = [random_numbers(data), _modules(model), _values(params), _gradients(params)]
    if optimizer is not None:
        undos.append(_optimizer(optimizer, params))
    if scaler is not None:
        undos.append(Snapshot("lr_range", [scaler]))
    undos += [_by_state_dict(thing) for thing in keep]
    with _undone(undos):
        yield


@contextmanager
def unchanged(model: nn.Module, params: Sequence[torch.Tensor], data: Any = None) -> Iterator[None]:
    """Restore all state except parameter values after a block that evaluates a model and differentiates by `params`.

    Within the block, `.grad` is None and the hooks of the parameters are removed, because a measurement is not a
    training step. The block is entered for every product, so parameter values are not copied; only `displaced` changes
    them, and it restores them.
    """
    with _undone([random_numbers(data), _modules(model), _bare(list({*model.parameters(), *params}))]):
        for p in params:
            p.requires_grad_(True)
        yield


@contextmanager
def displaced(params: Sequence[torch.Tensor], direction: Sequence[torch.Tensor], distance: float) -> Iterator[None]:
    """Move parameters along a direction within the block, and restore them bit-for-bit afterwards."""
    with _undone([_values(params)]):
        for p, part in zip(params, direction, strict=True):
            p.data.add_(part.to(p.dtype), alpha=distance)  # `.data`: must not change the version in existing graphs
        yield


@contextmanager
def restored_generators() -> Iterator[None]:
    """Restore the random number generators after the block, so that the next block draws the same numbers."""
    with _undone([random_numbers()]):
        yield


@contextmanager
def _undone(undos: Iterable[Undo]) -> Iterator[None]:
    with ExitStack() as stack:  # runs the remaining callbacks if one raises an error
        for undo in undos:
            stack.callback(undo)
        yield


def trained(model: nn.Module, optimizer: Optimizer | None) -> list[torch.Tensor]:
    """Return the parameters of a model, followed by those of its optimizer that the model does not have."""
    groups = [] if optimizer is None else optimizer.param_groups
    return list(dict.fromkeys([*model.parameters(), *(p for group in groups for p in group["params"])]))


def memory_of(model: nn.Module, optimizer: Optimizer) -> int:
    """Return the number of bytes of the copies that `restoring` keeps."""
    params = trained(model, optimizer)
    tensors = [*params, *model.buffers(), *(p.grad for p in params if p.grad is not None), *tensors_in([optimizer])]
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())


def _modules(model: nn.Module) -> Undo:
    """Return a function that restores the modes and buffers of all modules."""
    kept = [(module, module.training, dict(module._buffers)) for module in model.modules()]
    values = _values(model.buffers())

    def undo() -> None:
        for module, training, buffers in kept:
            if module.training != training:  # setting an attribute of a module is slow
                module.training = training
            module._buffers.clear()
            module._buffers.update(buffers)
        values()

    return undo


def _values(tensors: Iterable[torch.Tensor]) -> Undo:
    undos = [tensor_undo(tensor) for tensor in tensors]

    def undo() -> None:
        for one in undos:
            one()

    return undo


def _gradients(params: Iterable[torch.Tensor]) -> Undo:
    grads = [(p, p.grad) for p in params]
    values = _values(grad for _, grad in grads if grad is not None)

    def undo() -> None:
        for p, grad in grads:
            p.grad = grad
        values()

    return undo


def _bare(params: Iterable[torch.Tensor]) -> Undo:
    """Remove gradients and hooks from parameters; return a function that restores them and `requires_grad`."""
    kept = [(p, p.grad, p._backward_hooks, p.requires_grad) for p in params]

    def undo() -> None:
        for p, grad, hooks, required in kept:
            p.requires_grad_(required)
            p.grad, p._backward_hooks = grad, hooks

    try:
        for p, *_ in kept:
            p.grad, p._backward_hooks = None, None
    except BaseException:
        undo()
        raise
    return undo


def _optimizer(optimizer: Optimizer, params: Iterable[torch.Tensor]) -> Undo:
    """Return a function that restores an optimizer, the optimizers that it wraps, and all that they hold."""
    ours = [
        one for one in reachable([optimizer]) if any(c.__module__.startswith("fallline.") for c in type(one).__mro__)
    ]
    restore = Snapshot("lr_range", [optimizer], params)

    def undo() -> None:
        restore()
        for one in ours:
            one.__setstate__({})  # as after unpickling: discards caches derived from the state

    return undo


def _by_state_dict(thing: Any) -> Undo:
    state = copy.deepcopy(thing.state_dict())
    return lambda: thing.load_state_dict(state)


def random_numbers(data: Any = None) -> Undo:
    """Return a function that restores the generators of torch on every device, NumPy, Python and a data loader."""
    cpu, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    samplers = [getattr(data, "sampler", None), getattr(data, "batch_sampler", None)]
    samplers += [getattr(sampler, "sampler", None) for sampler in samplers]
    found = (getattr(holder, "generator", None) for holder in (data, *samplers))
    generators = [(g, g.get_state()) for g in found if isinstance(g, torch.Generator)]

    def undo() -> None:
        torch.set_rng_state(cpu)
        random.setstate(python)
        np.random.set_state(numpy)
        if devices:
            torch.cuda.set_rng_state_all(devices)
        for generator, state in generators:
            generator.set_state(state)

    return undo
