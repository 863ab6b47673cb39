"""Copies of everything that an object holds, in containers and objects of any depth, and their restoration in place."""

import enum
import logging
import random
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from fallline.guard import describe_error
from fallline.landscape.loss.fallbacks import warn

Undo = Callable[[], Any]

# Values that do not change, and objects that are not part of a state: code, and what other code restores or owns.
_VALUES = (type(None), bool, int, float, complex, str, bytes, np.generic, torch.dtype, torch.device, enum.Enum)
_CODE = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, partial)
_OPAQUE = (*_VALUES, *_CODE, weakref.ref, nn.Module, logging.Logger)


class Snapshot:
    """The values that objects hold, at any depth. Calling it restores them, in the same containers and objects.

    Tensors, NumPy arrays, random number generators, dicts, lists, sets, deques, and the attributes of objects are
    restored. Modules, functions and classes are left as they are. A LandscapeWarning names what cannot be restored,
    such as the position of an iterator.

    Args:
        owner: name of the measurement, for the warning.
        roots: the objects; the hooks of an optimizer are left as they are.
        known: tensors that need no copy, because other code restores them.

    Example:
        >>> state = {"steps": [1, {"mean": torch.zeros(2)}]}
        >>> restore = Snapshot("lr_range", [state])
        >>> state["steps"][1]["mean"] += 1
        >>> state["steps"].append(2)
        >>> restore()
        >>> state
        {'steps': [1, {'mean': tensor([0., 0.])}]}
    """

    def __init__(self, owner: str, roots: Iterable[Any], known: Iterable[torch.Tensor] = ()) -> None:
        self._owner = owner
        self._undos: list[tuple[str, Undo]] = []
        restored = {id(tensor) for tensor in known}
        lost: dict[str, str] = {}
        for value in reachable(roots):
            kind = type(value).__name__
            if isinstance(value, Iterator) and not hasattr(value, "__dict__"):
                lost[kind] = "its position cannot be read"
            elif id(value) not in restored:
                try:
                    self._undos += [(kind, undo) for undo in _undos(value)]
                except Exception as error:
                    lost[kind] = describe_error(error)
        self._report("will not be restored", lost)

    def __call__(self) -> None:
        """Restore all values; if one cannot be restored, the others still are."""
        lost: dict[str, str] = {}
        for kind, undo in self._undos:
            try:
                undo()
            except Exception as error:
                lost[kind] = describe_error(error)
        self._report("was not restored", lost)

    def _report(self, what: str, lost: Mapping[str, str]) -> None:
        for kind, reason in lost.items():
            warn(self._owner, f"a {kind} in the state of the optimizer {what}, because {reason}")


def reachable(roots: Iterable[Any]) -> Iterator[Any]:
    """Yield every mutable value that the roots hold, at any depth, once each, and the roots themselves."""
    seen: dict[int, Any] = {}  # the values stay alive, so that ids are unique
    rest = [*roots]
    while rest:
        value = rest.pop()
        if isinstance(value, _OPAQUE) or id(value) in seen or _is_cache(value):
            continue
        seen[id(value)] = value
        yield value
        rest += [] if isinstance(value, torch.Tensor) else _parts(value)


def tensors_in(roots: Iterable[Any]) -> list[torch.Tensor]:
    """Return all tensors that the roots hold, at any depth."""
    return [value for value in reachable(roots) if isinstance(value, torch.Tensor)]


def _is_cache(value: Any) -> bool:
    """Return whether an object is one of Fallline's own, such as a step plan, which follows from the optimizer."""
    return type(value).__module__.startswith("fallline.") and not isinstance(value, Optimizer)


def _parts(value: Any) -> list[Any]:
    """Return what a container or an object holds directly."""
    parts = [*_slots(value).values()]
    for name, part in getattr(value, "__dict__", {}).items():
        # The hooks of an optimizer belong to the user, and may observe the very training that is undone.
        if not (isinstance(value, Optimizer) and name.endswith("_hooks")):
            parts.append(part)
    if isinstance(value, Mapping):
        parts += value.values()
    elif isinstance(value, list | tuple | set | frozenset | deque):
        parts += value
    return parts


def _slots(value: Any) -> dict[str, Any]:
    """Return the attributes of an object that are not in its `__dict__`."""
    found = {}
    for cls in type(value).__mro__:
        names = vars(cls).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            private = name.startswith("__") and not name.endswith("__")
            name = f"_{cls.__name__.lstrip('_')}{name}" if private else name
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def _undos(value: Any) -> Iterator[Undo]:
    """Yield functions that restore the items, the attributes and the values of a container, an object or a tensor."""
    if isinstance(value, torch.Tensor):
        yield tensor_undo(value)
        return
    if isinstance(value, dict | set):
        yield partial(_refill, value, value.update, dict(value) if isinstance(value, dict) else set(value))
    elif isinstance(value, list | deque | bytearray):
        yield partial(_refill, value, value.extend, tuple(value))
    elif isinstance(value, np.ndarray):
        yield partial(np.copyto, value, value.copy())
    elif isinstance(value, torch.Generator):
        state = value.get_state()
        yield lambda: value.set_state(state)
    elif isinstance(value, np.random.RandomState):
        yield partial(value.set_state, value.get_state())
    elif isinstance(value, random.Random):
        yield partial(value.setstate, value.getstate())
    elif isinstance(value, np.random.Generator):
        yield partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    if isinstance(attributes := getattr(value, "__dict__", None), dict):
        yield partial(_refill, attributes, attributes.update, dict(attributes))
    if any("__slots__" in vars(cls) for cls in type(value).__mro__):
        yield partial(_restore_slots, value, _slots(value))


def _refill(container: Any, fill: Callable[[Any], Any], items: Any) -> None:
    container.clear()
    fill(items)


def _restore_slots(value: Any, kept: Mapping[str, Any]) -> None:
    now = _slots(value)
    for name in now.keys() - kept.keys():
        object.__delattr__(value, name)
    for name, part in kept.items():
        if name not in now or now[name] is not part:
            object.__setattr__(value, name, part)


def tensor_undo(tensor: torch.Tensor) -> Undo:
    """Return a function that restores the values of a tensor, whose storage it keeps unless the shape has changed."""
    value = tensor.detach().clone()

    def undo() -> None:
        if tensor.shape != value.shape or tensor.dtype != value.dtype or tensor.device != value.device:
            tensor.data = value.clone()
        elif tensor.layout is not torch.strided:  # `.data` of a sparse tensor does not share its values
            with torch.no_grad():
                tensor.copy_(value)
        elif not _same(tensor, value):  # an expanded buffer cannot be written, even with the same values
            tensor.data.copy_(value)  # `.data`: graphs built before the block hold these values

    return undo


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether values are known to be bit-for-bit identical; -0 and 0 differ."""
    try:
        if one.is_complex():
            one, other = torch.view_as_real(one), torch.view_as_real(other)
        return torch.equal(one, other) and torch.equal(one.signbit(), other.signbit())
    except (RuntimeError, TypeError):  # such as float8, which cannot be compared in this way
        return False
