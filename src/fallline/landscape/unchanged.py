"""Leaves a model as it was: values, modes, buffers, gradients, hooks and random numbers, whatever happens between."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fallline.landscape.restoring import random_numbers


@contextmanager
def unchanged(model: nn.Module, params: Sequence[nn.Parameter], data: Any = None) -> Iterator[None]:
    """Let the block do what it likes with a model, and put everything back afterwards, also when it fails.

    Inside, gradients are absent and hooks on the parameters are silent: a measurement is no training step. Their values
    are not copied: `displaced` is the only thing here that moves them.
    """
    restore_random_numbers = random_numbers(data)
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    held = [(p, p.grad, p._backward_hooks, p.requires_grad) for p in {*model.parameters(), *params}]
    try:
        for p, *_ in held:
            p.grad, p._backward_hooks = None, None
        for p in params:
            p.requires_grad_(True)
        yield
    finally:
        for p, grad, hooks, required in held:
            p.requires_grad_(required)
            p.grad, p._backward_hooks = grad, hooks
        for module, training in modes:
            module.training = training
        for module, name, buffer, value in buffers:
            module._buffers[name] = buffer
            if not torch.equal(buffer, value):  # batch norm writes its statistics without raising their version
                buffer.data.copy_(value)
        restore_random_numbers()


@contextmanager
def displaced(params: Sequence[torch.Tensor], direction: Sequence[torch.Tensor], distance: float) -> Iterator[None]:
    """Move parameters along a direction for the length of the block, and back to the bit."""
    saved = [p.detach().clone() for p in params]
    try:
        for p, part in zip(params, direction, strict=True):
            p.data.add_(part.to(p.dtype), alpha=distance)  # `.data`: graphs that are kept must not see a new version
        yield
    finally:
        for p, value in zip(params, saved, strict=True):
            p.data.copy_(value)
