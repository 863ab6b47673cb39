"""Whatever a measurement does to a model, its optimizer and the random numbers, is undone to the bit."""

import copy
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

Undo = Callable[[], None]
_PLAIN = (type(None), bool, int, float, str)


@contextmanager
def restoring(
    model: nn.Module,
    optimizer: Optimizer | None = None,
    scaler: Any = None,
    data: Any = None,
    keep: Iterable[Any] = (),
) -> Iterator[None]:
    """Put everything back to the bit after the block, also when it raises or is interrupted.

    That is: parameters, buffers, `.grad` and the train/eval mode of every module; groups, state and plain attributes of
    the optimizer and of one inside it; the scaler; and the random numbers of torch on every device, of numpy, of Python
    and of the generators of a data loader. A copy of all this is kept for the duration of the block.

    Args:
        model: the model.
        optimizer: what trains it; its parameters need not be all of the model's.
        scaler: a `torch.amp.GradScaler`.
        data: a data loader whose generators are put back; how far an iterator has come cannot be undone.
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
    undos = [_random_numbers(data), *_optimizers(optimizer), _model(model, optimizer)]
    if scaler is not None:
        undos.append(_attributes(scaler, deep=True))
    undos += [_by_state_dict(thing) for thing in keep]
    with ExitStack() as stack:  # which goes on with the others when one of them raises
        for undo in undos:
            stack.callback(undo)
        yield


def _model(model: nn.Module, optimizer: Optimizer | None) -> Undo:
    groups = [] if optimizer is None else optimizer.param_groups
    params = dict.fromkeys([*model.parameters(), *(p for group in groups for p in group["params"])])
    values = _tensors([*params, *model.buffers()])
    grads = [(p, p.grad, None if p.grad is None else p.grad.detach().clone()) for p in params]
    modules = [(module, module.training, dict(module._buffers)) for module in model.modules()]

    def undo() -> None:
        for module, training, buffers in modules:
            module.training = training
            module._buffers.update(buffers)
        values()
        with torch.no_grad():
            for param, grad, value in grads:
                param.grad = grad
                if grad is not None:
                    grad.copy_(value)

    return undo


def _tensors(tensors: Iterable[torch.Tensor]) -> Undo:
    kept = [(tensor, tensor.detach().clone()) for tensor in tensors]

    def undo() -> None:
        with torch.no_grad():
            for tensor, value in kept:
                tensor.copy_(value)

    return undo


def _optimizers(optimizer: Any) -> Iterator[Undo]:
    """Yield what puts back an optimizer, and one that it wraps."""
    if optimizer is None:
        return
    for inner in vars(optimizer).values():
        if isinstance(inner, Optimizer):
            yield from _optimizers(inner)
    groups = [(group, _mapping(group)) for group in optimizer.param_groups]
    states = [(param, state, _mapping(state)) for param, state in optimizer.state.items()]
    attributes = _attributes(optimizer, deep=False)

    def undo() -> None:
        optimizer.param_groups[:] = [group for group, _ in groups]
        optimizer.state.clear()
        for _, undo_group in groups:
            undo_group()
        for param, state, undo_state in states:
            undo_state()
            optimizer.state[param] = state
        attributes()
        optimizer.__setstate__({})  # as after unpickling: what was worked out from the state no longer holds

    yield undo


def _mapping(mapping: dict[str, Any]) -> Undo:
    """Return what gives a dict its keys and values of now, tensors being the same ones with their values of now."""
    kept = dict(mapping)
    tensors = _tensors(value for value in kept.values() if isinstance(value, torch.Tensor))

    def undo() -> None:
        mapping.clear()
        mapping.update(kept)
        tensors()

    return undo


def _attributes(thing: Any, deep: bool) -> Undo:
    """Return what puts back the attributes of an object: those that are plain values, or all."""
    kept = {k: v for k, v in vars(thing).items() if deep or isinstance(v, _PLAIN)}
    tensors = _tensors(value for value in kept.values() if isinstance(value, torch.Tensor))
    values = {k: v if isinstance(v, torch.Tensor) else copy.deepcopy(v) for k, v in kept.items()}

    def undo() -> None:
        for name in [k for k, v in vars(thing).items() if k not in values and (deep or isinstance(v, _PLAIN))]:
            delattr(thing, name)
        vars(thing).update(values)
        tensors()

    return undo


def _by_state_dict(thing: Any) -> Undo:
    state = copy.deepcopy(thing.state_dict())
    return lambda: thing.load_state_dict(state)


def _random_numbers(data: Any) -> Undo:
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
