"""Parameters that are sharded over processes (DTensors): the local part and its position in the whole tensor."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

_PLAIN = (torch.Tensor, torch.nn.Parameter)


def is_sharded(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is a DTensor, without importing `torch.distributed.tensor`."""
    return type(tensor) not in _PLAIN and hasattr(tensor, "device_mesh") and hasattr(tensor, "placements")


def local(tensor: Any) -> torch.Tensor:
    """Return the local part of a DTensor: the tensor object itself, after pending communication, without autograd."""
    part: Any = tensor._local_tensor  # to_local() makes a new view of a parameter at each call, which cannot be cached
    ready: torch.Tensor = part.wait() if hasattr(part, "wait") else part  # a collective may still be running
    return ready


def local_part(tensor: Any) -> torch.Tensor:
    """Return the local part of a DTensor, and any other tensor as it is."""
    return local(tensor) if is_sharded(tensor) else tensor


def local_like(tensor: Any, param: Any) -> torch.Tensor:
    """Return the part of the gradient `tensor` that corresponds to the local part of `param`."""
    if tensor.placements != param.placements:
        tensor = tensor.redistribute(placements=param.placements)
    return local(tensor)


def place_like(value: Any, param: Any) -> torch.Tensor:
    """Return a copy of `value`, a plain tensor or a DTensor, that is placed on the processes as `param` is.

    A plain tensor must be the same on all processes, so that nothing has to be communicated.
    """
    if not is_sharded(param):
        whole: torch.Tensor = value.full_tensor() if is_sharded(value) else value
        return whole.detach().to(device=param.device, copy=True)
    placements = _placements_beside(param, value.dim())
    if is_sharded(value):
        sharded: torch.Tensor = value.detach().redistribute(param.device_mesh, placements)
        return sharded.clone()
    from torch.distributed.tensor import DTensor, Replicate

    mesh = param.device_mesh
    replicated = DTensor.from_local(value.detach().to(param.device), mesh, [Replicate()] * mesh.ndim, run_check=False)
    return replicated.redistribute(mesh, placements).clone()


def on_parts(function: Callable[..., Any], *tensors: Any) -> Any:
    """Apply an elementwise function to plain tensors, or to the local parts of DTensors that are placed alike.

    Args:
        function: returns one tensor or a tuple of tensors of the shape of its arguments.
        *tensors: its arguments.
    """
    first = tensors[0]
    if not is_sharded(first):
        return function(*tensors)
    from torch.distributed.tensor import DTensor

    def placed(part: torch.Tensor) -> Any:
        return DTensor.from_local(
            part, first.device_mesh, first.placements, run_check=False, shape=first.shape, stride=first.stride()
        )

    found = function(*map(local, tensors))
    return tuple(map(placed, found)) if isinstance(found, tuple) else placed(found)


def zeros_beside(param: Any, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return zeros of any shape on the device of `param`, sharded along the same dimensions as far as they exist."""
    if not is_sharded(param):
        return torch.zeros(shape, dtype=dtype, device=param.device)
    from torch.distributed.tensor import zeros

    placements = _placements_beside(param, len(shape))
    return zeros(shape, dtype=dtype, device_mesh=param.device_mesh, placements=placements)


def _placements_beside(param: Any, dims: int) -> list[Any]:
    """Return the placements of `param` for a tensor with another number of dimensions."""
    from torch.distributed.tensor import Replicate

    return [place if getattr(place, "dim", -1) < dims else Replicate() for place in param.placements]


def sum_over_shards(values: np.ndarray, param: Any) -> np.ndarray:
    """Return float64 values summed over the processes that hold different parts of `param`; all get identical bits."""
    groups = [
        param.device_mesh.get_group(dim) for dim, place in enumerate(param.placements) if not place.is_replicate()
    ]
    if not groups:
        return values
    total = torch.from_numpy(values).to(param.device_mesh.device_type)
    for group in groups:
        torch.distributed.all_reduce(total, group=group)
    result: np.ndarray = total.cpu().numpy()
    return result


def numbering(param: Any) -> int | torch.Tensor:
    """Return the positions of the local elements in the memory of the whole tensor.

    Returns:
        The position of the first element if the others follow it contiguously, else the position of each element.
    """
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, first = compute_local_shape_and_global_offset(param.shape, param.device_mesh, param.placements)
    part, strides = local(param), _dense_strides(param)
    rows_only = part.shape[1:] == param.shape[1:]
    if rows_only and part.stride() == strides and strides == _row_strides(param.shape):
        return int(first[0] * strides[0]) if part.dim() else 0
    numbers = torch.zeros(part.shape, dtype=torch.int64, device=part.device)
    for dim, (start, size, stride) in enumerate(zip(first, part.shape, strides, strict=True)):
        along = torch.arange(start, start + size, device=part.device) * stride
        numbers += along.view([-1 if d == dim else 1 for d in range(part.dim())])
    return numbers


def _dense_strides(param: torch.Tensor) -> tuple[int, ...]:
    """Return the strides of a dense tensor; for a tensor with gaps, the strides of its elements in row-major order."""
    size = 1
    for dim in sorted(range(param.dim()), key=param.stride):
        if param.stride(dim) != size and param.shape[dim] != 1:
            return _row_strides(param.shape)
        size *= param.shape[dim]
    return tuple(param.stride())


def _row_strides(shape: Iterable[int]) -> tuple[int, ...]:
    strides, size = [], 1
    for length in reversed(tuple(shape)):
        strides.append(size)
        size *= length
    return tuple(reversed(strides))
