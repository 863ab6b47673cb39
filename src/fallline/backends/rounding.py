"""Stochastic rounding to bfloat16: up or down, with the probabilities that make the result correct on average.

The random numbers are a hash of seed, parameter, step and element, so they do not depend on the number of threads or
the backend.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fallline.backends.blocks import encode
from fallline.rules.update import Update, codes_key, scale_key

_MASK = 0xFFFFFFFF


def rounded_columns(update: Update, dtypes: Mapping[str, str]) -> list[str]:
    """Return the names of the written tensors (param and state keys, with dtypes) that are rounded stochastically."""
    low_state, blocks = update.state_dtype in (torch.bfloat16, "bfloat16"), update.in_blocks
    wanted = {"param": update.round_param}
    return [
        name
        for name, dtype in dtypes.items()
        if name in blocks or (dtype == "bfloat16" and wanted.get(name, low_state))
    ]


def keys(seeds: Sequence[float], params: Sequence[int], steps: Sequence[float]) -> np.ndarray:
    """Return a key for each tensor in this step, int64: a hash of seed, index of the parameter and step."""
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
    """Return 16 random bits for each element of a tensor, identical to those of `draw` in `fused/formats.py`.

    Args:
        key: the key of the tensor, from `keys`.
        index: int64, positions of the elements in memory.
        column: the index of the tensor among those that are rounded; two of them share the 32 bits of an element.
    """
    low, high = key & _MASK, (key >> 32) & _MASK
    x: torch.Tensor = index + (low ^ (index >> 32)) + (column // 2) * 0x9E3779B9 & _MASK
    x = (x ^ (x >> 16)) * 0x7FEB352D & _MASK
    x = x ^ high
    x = (x ^ (x >> 15)) * 0x846CA68B & _MASK
    x = x ^ (x >> 16)
    return (x >> 16 * (column % 2)) & 0xFFFF


def round_randomly(values: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Return float32 values rounded to bfloat16: up if the sum of their lower 16 bits and the random bits overflows."""
    values = values.float()  # 0-d tensors are float64 after operations with a norm, others if the parameter is float64
    raw = values.contiguous().view(torch.int32)
    rounded = ((raw + bits.to(torch.int32)) & -65536).view(torch.float32)
    return torch.where(values.isfinite(), rounded, values).to(torch.bfloat16)


def round_columns(
    columns: Sequence[str],
    values: Mapping[str, torch.Tensor],
    key: int,
    origin: int | torch.Tensor = 0,
    codes: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """Round the new values of one parameter that are rounded stochastically, and return them.

    Args:
        columns: the names of the values to round.
        values: all new values of the parameter, by name.
        key: the key of the parameter, from `keys`.
        origin: for a shard, the position of its first element in the whole tensor, or of each element.
        codes: the present codes of the states that are stored in blocks, by name.

    Returns:
        The rounded values by name; for states in blocks, the codes and scales by the keys under which they are stored.
    """
    rounded: dict[str, torch.Tensor] = {}
    for number, name in enumerate(columns):
        index = origin if isinstance(origin, torch.Tensor) else positions(values[name]) + origin
        bits = random_bits(key, index, number)
        if codes and name in codes:
            found = encode(values[name], codes[name].dtype, bits, codes[name])
            rounded |= zip((codes_key(name), scale_key(name)), found, strict=True)
        else:
            rounded[name] = round_randomly(values[name], bits)
    return rounded


def positions(tensor: torch.Tensor) -> torch.Tensor:
    """Return the memory position of each element, counted in elements; in row-major order if there are gaps."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    index = torch.arange(tensor.numel(), device=tensor.device)
    dense = tensor.permute(order).is_contiguous()
    return index.as_strided(tensor.shape, tensor.stride()) if dense else index.view(tensor.shape)
