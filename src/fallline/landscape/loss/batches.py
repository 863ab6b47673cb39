"""Access to the contents of a batch that may consist of mappings, sequences, dataclasses and other objects."""

import contextlib
import copy
import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

_ATOMS = (torch.Tensor, np.ndarray, np.generic, str, bytes, bytearray, int, float, complex, type(None))
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)
_OPAQUE = (type, types.ModuleType, torch.Generator, torch.nn.Module, *_FUNCTIONS)  # behaviour, not data
_Known = dict[int, tuple[Any, Any]]  # from the id of a mapped value to that value, kept alive, and its result


def leaves(batch: Any) -> Iterator[Any]:
    """Yield the tensors, arrays, texts and numbers of a batch, in order.

    Mappings (including `BatchEncoding`), lists, tuples, sets, dataclasses and objects with attributes are traversed.
    A container that contains itself is traversed once. A string is a leaf, not a sequence of strings.

    Example:
        >>> [leaf for leaf in leaves({"text": ["a", "b"], "x": (1, None)})]
        ['a', 'b', 1, None]
    """
    yield from _leaves(batch, frozenset())


def map_tensors(function: Callable[[torch.Tensor], Any], batch: Any) -> Any:
    """Return a batch with a function applied to every tensor in it, in containers of the same types.

    Containers without a tensor that the function changes are returned as they are. Nothing is modified in place.

    Example:
        >>> map_tensors(lambda t: t + 1, {"x": [torch.zeros(2)], "text": ["a"]})
        {'x': [tensor([1., 1.])], 'text': ['a']}
    """
    return _map(function, batch, {}, lambda value: value)


def move(batch: Any, device: str) -> Any:
    """Return a batch with its tensors on a device, in containers of the same types.

    Objects other than mappings that have a method `to` are moved by it: a `PackedSequence` keeps its sizes on the CPU.

    Example:
        >>> move({"x": torch.zeros(2), "text": ["a"]}, "meta")
        {'x': tensor(..., device='meta', size=(2,)), 'text': ['a']}
    """

    def whole(value: Any) -> Any:
        own = None if isinstance(value, Mapping) else getattr(value, "to", None)
        return own(device) if callable(own) else value

    return _map(lambda tensor: tensor.to(device, non_blocking=True), batch, {}, whole)


def count_rows(batch: Any) -> int | None:
    """Return the length of the first tensor or array of a batch, or else of its first list of texts or numbers.

    Tensors without dimensions are skipped. If there are only such tensors, the length is 1. If there is nothing to
    count, it is None.

    Example:
        >>> count_rows({"text": ["a", "b", "c"], "scale": torch.tensor(2.0), "x": torch.zeros(3, 5)})
        3
    """
    arrays = [leaf for leaf in leaves(batch) if _is_array(leaf)]
    for array in arrays:
        if array.ndim:
            return int(array.size(0) if isinstance(array, torch.Tensor) else len(array))
    return 1 if arrays else _list_length(batch, frozenset())


def examples(batch: Any) -> list[bytes]:
    """Return the content of each example: its row of every part of the batch whose length equals `count_rows`.

    The parts are tensors, arrays, and lists of texts or numbers.

    Example:
        >>> first, second, third = examples({"x": torch.tensor([1, 1, 1]), "text": ["a", "b", "a"], "name": "train"})
        >>> first == third, first == second
        (True, False)
    """
    rows = count_rows(batch)
    columns = [column for column in _columns(batch, frozenset()) if len(column) == rows]
    return [b"|".join(parts) for parts in zip(*columns, strict=True)]


def only_row(batch: Any, row: int) -> Any:
    """Return a batch with one of its examples: every part whose length equals `count_rows` is cut to that row.

    Example:
        >>> only_row({"x": torch.zeros(3, 2), "scale": torch.tensor(2.0), "text": ["a", "b", "c"]}, 1)
        {'x': tensor([[0., 0.]]), 'scale': tensor(2.), 'text': ['b']}
    """
    rows = count_rows(batch)

    def cut(value: Any) -> Any:
        flat = isinstance(value, (list, tuple)) and not hasattr(value, "_fields") and all(map(_is_leaf, value))
        return value[row : row + 1] if flat and len(value) == rows and not any(map(_is_array, value)) else value

    def cut_tensor(tensor: torch.Tensor) -> torch.Tensor:
        return tensor[row : row + 1] if tensor.dim() and tensor.size(0) == rows else tensor

    return _map(cut_tensor, batch, {}, cut)


def as_bytes(leaf: Any) -> bytes:
    """Return dtype, shape and data of a tensor or array as bytes; for any other leaf, a text that identifies it."""
    if isinstance(leaf, np.ndarray) and leaf.dtype.hasobject:
        return b"|".join(map(as_bytes, leaves(leaf.tolist())))
    if isinstance(leaf, np.ndarray):
        return f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes()
    if isinstance(leaf, torch.Tensor):
        return f"{leaf.dtype}{shape_of(leaf)}".encode() + row_bytes(leaf if leaf.dim() else leaf[None]).tobytes()
    cls: Any = type(leaf)
    if cls.__repr__ is object.__repr__ or isinstance(leaf, _OPAQUE):
        return str(cls.__qualname__).encode()  # the repr contains an address, which differs in every process
    return repr(leaf).encode()


def shape_of(tensor: torch.Tensor) -> tuple[int, ...]:
    """Return the shape of a tensor; for a nested tensor, the number of tensors in it."""
    return (tensor.size(0),) if tensor.is_nested else tuple(tensor.shape)


def row_bytes(tensor: torch.Tensor) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Return the bytes of each row of a tensor of any layout, as an array (rows, bytes per row)."""
    dense = tensor.detach()
    if dense.is_nested:
        dense = torch.nested.to_padded_tensor(dense, 0.0)
    if dense.layout != torch.strided:
        dense = dense.to_dense()
    dense = dense.cpu().resolve_conj().resolve_neg().contiguous()
    width = dense[0].numel() * dense.element_size() if len(dense) else 0
    return dense.reshape(-1).view(torch.uint8).numpy().reshape(len(dense), width)


def _is_leaf(value: Any) -> bool:
    return isinstance(value, (*_ATOMS, *_OPAQUE))


def _attributes(value: Any) -> dict[str, Any]:
    """Return the attributes of an object that is not a container, including dataclass fields in slots."""
    fields = [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
    return {**{name: getattr(value, name) for name in fields if hasattr(value, name)}, **getattr(value, "__dict__", {})}


def _parts(value: Any) -> list[Any] | None:
    """Return the parts of a container or object, or None if it has none, such as a date or a path."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)  # the iteration order of a set differs between processes
    return list(_attributes(value).values()) or None


def _leaves(value: Any, above: frozenset[int]) -> Iterator[Any]:
    parts = None if _is_leaf(value) else _parts(value)
    if parts is None:
        yield value
    elif id(value) not in above:
        for part in parts:
            yield from _leaves(part, above | {id(value)})


def _columns(value: Any, above: frozenset[int]) -> Iterator[list[bytes]]:
    """Yield the rows of every tensor and array, and the elements of every list of only texts and numbers."""
    if isinstance(value, torch.Tensor):
        if value.dim():
            yield [row.tobytes() for row in row_bytes(value)]
    elif isinstance(value, np.ndarray):
        if value.ndim:
            yield [as_bytes(row) for row in value]
    elif not _is_leaf(value) and id(value) not in above:
        parts = _parts(value) or []
        if isinstance(value, (list, tuple)) and not any(map(_is_array, parts)) and all(map(_is_leaf, parts)):
            yield [as_bytes(part) for part in parts]
        else:
            for part in parts:
                yield from _columns(part, above | {id(value)})


def _is_array(value: Any) -> bool:
    return isinstance(value, (torch.Tensor, np.ndarray))


def _list_length(value: Any, above: frozenset[int]) -> int | None:
    """Return the length of the first list or tuple that contains only leaves."""
    parts = None if _is_leaf(value) or id(value) in above else _parts(value)
    if not parts:
        return None
    if isinstance(value, (list, tuple)) and all(map(_is_leaf, parts)):
        return len(parts)
    lengths = (_list_length(part, above | {id(value)}) for part in parts)
    return next((length for length in lengths if length is not None), None)


def _map(function: Callable[[Any], Any], value: Any, known: _Known, whole: Callable[[Any], Any]) -> Any:
    """Return a value with its tensors mapped; `whole` may return a replacement for a container or object."""
    if id(value) in known:
        return known[id(value)][1]
    if isinstance(value, torch.Tensor):
        found = function(value)
    elif _is_leaf(value) or isinstance(value, (set, frozenset)):
        return value
    else:
        known[id(value)] = (value, value)  # a reference of a batch to itself is left unchanged
        found = whole(value)
        if found is value:
            found = _rebuild(value, lambda part: _map(function, part, known, whole))
    known[id(value)] = (value, found)
    return found


def _rebuild(value: Any, mapped: Callable[[Any], Any]) -> Any:
    """Return a container or object with its parts mapped, or the object itself if no part changes."""
    if isinstance(value, (list, tuple)):
        parts = [mapped(part) for part in value]
        return value if all(map(_same, parts, value)) else _sequence(value, parts)
    old_items = dict(value.items()) if isinstance(value, Mapping) else {}
    items = {key: mapped(part) for key, part in old_items.items()}
    old_attributes = _attributes(value)
    attributes = {name: mapped(part) for name, part in old_attributes.items()}
    if all(map(_same, [*items.values(), *attributes.values()], [*old_items.values(), *old_attributes.values()])):
        return value
    return items if type(value) is dict else _copied(value, items, attributes)


def _same(one: Any, other: Any) -> bool:
    return one is other


def _copied(value: Any, items: Mapping[Any, Any], attributes: Mapping[str, Any]) -> Any:
    """Return a shallow copy of a mapping or object with the given items and attributes."""
    try:
        clone = copy.copy(value)
        for key, part in items.items():
            clone[key] = part
    except TypeError:  # a read-only mapping, or an object that cannot be copied
        return dict(items) if items else value
    for name, part in attributes.items():
        with contextlib.suppress(AttributeError):  # a read-only attribute that is computed from others
            object.__setattr__(clone, name, part)  # also works for a frozen dataclass
    return clone


def _sequence(value: Any, parts: list[Any]) -> Any:
    """Return a list, tuple, named tuple or an instance of their subclasses with the given parts."""
    if type(value) is list:
        return parts
    if isinstance(value, list):
        clone = copy.copy(value)
        clone[:] = parts
        return clone
    try:
        return tuple.__new__(type(value), parts)  # not the constructor, whose arguments may be anything
    except TypeError:  # the tuple types that functions of torch return
        return type(value)(parts)
