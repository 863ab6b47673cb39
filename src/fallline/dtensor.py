"""Parameters that are spread over processes (DTensors): the part that is here, and how it fits into the whole."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

_PLAIN = (torch.Tensor, torch.nn.Parameter)


def is_sharded(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is a DTensor; `torch.distributed.tensor` is not imported for the question."""
    return type(tensor) not in _PLAIN and hasattr(tensor, "device_mesh") and hasattr(tensor, "placements")


def local(tensor: Any) -> torch.Tensor:
    """Return the part of a DTensor that this process holds: the very tensor, arrived and without a history."""
    part: Any = tensor._local_tensor  # to_local() makes a new view of a parameter at each call: nothing to remember
    arrived: torch.Tensor = part.wait() if hasattr(part, "wait") else part  # a collective may still be under way
    return arrived


def local_like(tensor: Any, param: Any) -> torch.Tensor:
    """Return the part of `tensor`, a gradient, that belongs to the local part of `param`."""
    if tensor.placements != param.placements:
        tensor = tensor.redistribute(placements=param.placements)
    return local(tensor)


def fitted(value: Any, param: Any) -> torch.Tensor:
    """Return a copy of `value`, whole or spread, that is spread over the processes as `param` is.

    A whole value must be the same on all processes; then nothing is sent.
    """
    if not is_sharded(param):
        whole: torch.Tensor = value.full_tensor() if is_sharded(value) else value
        return whole.detach().to(device=param.device, copy=True)
    if is_sharded(value):
        spread: torch.Tensor = value.detach().redistribute(param.device_mesh, param.placements)
        return spread.clone()
    from torch.distributed.tensor import DTensor, Replicate

    mesh = param.device_mesh
    everywhere = DTensor.from_local(value.detach().to(param.device), mesh, [Replicate()] * mesh.ndim, run_check=False)
    return everywhere.redistribute(mesh, param.placements).clone()


def sum_over_shards(values: np.ndarray, param: Any) -> np.ndarray:
    """Return float64 values added up over the processes that hold different parts of `param`; all get the same bits."""
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
    """Return which elements of the whole the local part holds, counted in the memory of the whole.

    Returns:
        The number of the first element where the others follow it in memory, else the number of each.
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
    """Return the strides of a dense tensor; of one with gaps, those of its elements in row order."""
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
