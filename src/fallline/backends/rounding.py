"""Stochastic rounding to bfloat16: up or down, with the odds that make the mean right.

The random numbers are not drawn but computed from seed, parameter, step and element: they are the same on any number
of threads and on any backend.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fallline.rules.update import Update

_MASK = 0xFFFFFFFF


def rounded_columns(update: Update, dtypes: Mapping[str, str]) -> list[str]:
    """Return which of the tensors that are written (param and state keys, with their dtypes) are rounded so."""
    wanted = {"param": update.round_param}
    low_state = update.state_dtype == torch.bfloat16
    return [name for name, dtype in dtypes.items() if dtype == "bfloat16" and wanted.get(name, low_state)]


def keys(seeds: Sequence[float], params: Sequence[int], steps: Sequence[float]) -> np.ndarray:
    """Return a key for each tensor and this step, int64: seed, number of the parameter and step, well mixed."""
    with np.errstate(over="ignore"):
        key = _mix(np.array(seeds, dtype=np.int64).view(np.uint64))
        key = _mix(key ^ np.array(params, dtype=np.uint64))
        key = _mix(key ^ np.array(steps, dtype=np.uint64))
    mixed: np.ndarray = key.view(np.int64)
    return mixed


def _mix(x: Any) -> Any:
    """Return the output of SplitMix64 for the state x (Steele, Lea & Flood 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def random_bits(key: Any, index: torch.Tensor, column: int) -> torch.Tensor:
    """Return 16 random bits for elements of a tensor, as `fused.intrinsics.random_bits` does.

    Args:
        key: of the tensor, from `keys`.
        index: int64, positions of the elements in memory.
        column: which of the columns that are rounded: an element has 32 bits for two of them.
    """
    low, high = key & _MASK, (key >> 32) & _MASK
    x: torch.Tensor = index + (low ^ (index >> 32)) + (column // 2) * 0x9E3779B9 & _MASK
    x = (x ^ (x >> 16)) * 0x7FEB352D & _MASK
    x = x ^ high
    x = (x ^ (x >> 15)) * 0x846CA68B & _MASK
    x = x ^ (x >> 16)
    return (x >> 16 * (column % 2)) & 0xFFFF


def round_randomly(values: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Return values, as float32, rounded to bfloat16: up if their lower 16 bits exceed what the random ones leave."""
    values = values.float()  # a 0-d tensor is float64 when a norm has been at it, others when the parameter is
    raw = values.contiguous().view(torch.int32)
    rounded = ((raw + bits.to(torch.int32)) & -65536).view(torch.float32)
    return torch.where(values.isfinite(), rounded, values).to(torch.bfloat16)


def round_columns(
    columns: Sequence[str], values: Mapping[str, torch.Tensor], key: int, origin: int | torch.Tensor = 0
) -> dict[str, torch.Tensor]:
    """Return those of the new values of one parameter that are rounded stochastically, rounded.

    Args:
        columns: their names.
        values: all of its new values, by name.
        key: of the parameter, from `keys`.
        origin: the number of its first element in the whole of which it is a part, or that of each element.
    """
    rounded = {}
    for number, name in enumerate(columns):
        index = origin if isinstance(origin, torch.Tensor) else positions(values[name]) + origin
        rounded[name] = round_randomly(values[name], random_bits(key, index, number))
    return rounded


def positions(tensor: torch.Tensor) -> torch.Tensor:
    """Return where each element of a tensor lies in its memory, counted in elements; in row order if there are gaps."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    index = torch.arange(tensor.numel(), device=tensor.device)
    dense = tensor.permute(order).is_contiguous()
    return index.as_strided(tensor.shape, tensor.stride()) if dense else index.view(tensor.shape)
